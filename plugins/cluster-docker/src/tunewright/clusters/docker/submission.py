"""From a plan to a supervisor that has taken it over: what must be there, what is found out, and its answer."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from tunewright.clusters.docker.daemon import connected, docker_host
from tunewright.clusters.docker.state_directory import StateDirectory
from tunewright.clusters.docker.supervision.containers import OWNER
from tunewright.clusters.docker.supervision.engine import Engine
from tunewright.clusters.docker.supervision.main import REFUSED, STARTED, TAKEN, UNAVAILABLE
from tunewright.clusters.docker.supervision.refusals import in_words
from tunewright.contracts.errors import SubmissionRefused, Unavailable
from tunewright.contracts.jobs import SubmissionPlan
from tunewright.contracts.secret_values import read_secrets

PROGRAM_FILE = "supervisor.pyz"
_START_TIMEOUT_SECONDS = 180.0
_PACKAGE = "tunewright.clusters.docker.supervision"


def begin(directory: StateDirectory, plan: SubmissionPlan, job: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """See the job started, by our supervisor or by a faster submitter's. Raises SubmissionRefused or Unavailable."""
    secrets = read_secrets(job["secrets"], Path(job["run_dir"]))
    bodies = [json.loads(plan.text_of(name)) for name in job["nodes"]]
    _need_mounts(bodies)
    known = {**names, **_found_out(bodies[0], Path(job["run_dir"]))}
    _prepare(directory, plan, job, known)
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    while not _has_started(directory, secrets):  # a faster submitter's supervisor was refused, and left the job to us
        if time.monotonic() > deadline:
            raise SubmissionRefused(f"no supervisor in {directory.path} started the job", "is the machine overloaded?")


def _need_mounts(bodies: list[dict[str, Any]]) -> None:
    for mount in bodies[0]["HostConfig"]["Mounts"]:
        if not os.path.exists(mount["Source"]):
            hint = "the dataset, the model and everything in cluster.options.mounts must be on this machine"
            raise SubmissionRefused(f"{mount['Source']} is to be mounted into the container, and is not there", hint)


def _found_out(body: Mapping[str, Any], run_dir: Path) -> dict[str, str]:
    """The daemon, the image's id, and whose files the job writes."""
    host = docker_host()
    try:
        Engine(host)
    except ValueError as error:
        raise Unavailable(f"DOCKER_HOST {error}", "the run's files are mounted: use a daemon of this machine") from None
    with connected() as daemon:
        image = daemon.image_id(body["Image"])
        is_rootless = body["User"] == OWNER and daemon.is_rootless()
    owner = run_dir.stat()
    user = "0:0" if is_rootless else f"{owner.st_uid}:{owner.st_gid}"
    return {"host": host, "image": image, "user": user}


def _prepare(directory: StateDirectory, plan: SubmissionPlan, job: Mapping[str, Any], known: Mapping[str, str]) -> None:
    try:
        directory.path.mkdir(parents=True, exist_ok=True)
        _make_log_directory(Path(job["run_dir"]), Path(job["logs"][0]).parent)
        for file in plan.files:
            directory.write(file.name, file.text.encode())
        directory.write("known.json", json.dumps(known, indent=1).encode())
        directory.write(PROGRAM_FILE, supervisor_program())
    except OSError as error:
        raise SubmissionRefused(f"cluster `docker` cannot write to {directory.path}: {error.strerror}") from None


def _make_log_directory(run_dir: Path, logs: Path) -> None:
    """The job writes its log itself, as the owner of the run's directory."""
    logs.mkdir(exist_ok=True)
    owner, ours = run_dir.stat(), logs.stat()
    if (owner.st_uid, owner.st_gid) != (ours.st_uid, ours.st_gid) and os.geteuid() == 0:
        os.chown(logs, owner.st_uid, owner.st_gid)


def supervisor_program() -> bytes:
    """The program that runs a job, as one file for Python: the same bytes each time."""
    main = f"import sys\nfrom {_PACKAGE}.main import main\nmain(sys.argv[1])\n"
    folders = _PACKAGE.split(".")
    # A zip has no namespace packages unless it names its directories.
    texts = {"/".join([*folders[:depth], "__init__.py"]): "" for depth in range(1, len(folders))}
    own = (file for file in resources.files(_PACKAGE).iterdir() if file.name.endswith(".py"))
    texts |= {"/".join([*folders, file.name]): file.read_text(encoding="utf-8") for file in own}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in sorted({"__main__.py": main, **texts}.items()):
            archive.writestr(zipfile.ZipInfo(name), text)
    return buffer.getvalue()


def _has_started(directory: StateDirectory, secrets: Mapping[str, str] | None) -> bool:
    """Start a supervisor and hear its answer. False where another one was there, and is gone without a job."""
    answer = start_supervisor(directory, secrets)
    if answer["answer"] == TAKEN:
        return _wait_for_the_other(directory)
    if answer["answer"] == REFUSED:
        refusal = in_words(answer["message"])
        raise SubmissionRefused(refusal.message, refusal.hint)
    if answer["answer"] == UNAVAILABLE:
        raise Unavailable(f"the Docker daemon at {docker_host()} does not answer: {answer['message']}")
    if answer["answer"] != STARTED:
        complaint = directory.complaint() or "it wrote nothing"
        raise SubmissionRefused(f"the supervisor in {directory.path} did not start: {complaint}")
    return True


def _wait_for_the_other(directory: StateDirectory) -> bool:
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    while not directory.has_begun() and directory.is_supervised() and time.monotonic() < deadline:
        time.sleep(0.01)
    return directory.has_begun()


def start_supervisor(directory: StateDirectory, secrets: Mapping[str, str] | None) -> dict[str, str]:
    """Start it detached, with the machine's own Python and nothing of our environment, and give its answer."""
    with (directory.path / "supervisor.log").open("ab") as log:
        starter = subprocess.Popen(
            [*_interpreter(), str(directory.path / PROGRAM_FILE), str(directory.path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd="/", env={}, start_new_session=True,
        )  # fmt: skip
    with starter:
        try:
            out = starter.communicate(json.dumps(secrets).encode() + b"\n", timeout=_START_TIMEOUT_SECONDS)[0]
            answer: dict[str, str] = json.loads(out)
        except (subprocess.TimeoutExpired, ValueError):
            starter.kill()
            return {"answer": "", "message": ""}
    return answer


def _interpreter() -> tuple[str, ...]:
    """The machine's own Python: it stays when our PEX or virtual environment goes. Without `site` it starts sooner."""
    python = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    return (python, "-I", "-S", "-X", "utf8")


def revive(directory: StateDirectory) -> str:
    """Give a job whose supervisor is gone a new one, which goes on where that was. Why it cannot be, or nothing."""
    plan = directory.plan() or {}
    try:
        secrets = read_secrets(plan["secrets"], Path(plan["run_dir"]))
    except (SubmissionRefused, KeyError):
        secrets = None  # what runs goes on; it cannot be started again
    try:
        answer = start_supervisor(directory, secrets)
    except OSError as error:
        return f"its supervisor is gone, and a new one cannot be started: {error.strerror}"
    if answer["answer"] in (STARTED, TAKEN):
        return ""
    return f"its supervisor is gone, and a new one did not start: {directory.complaint() or 'it wrote nothing'}"
