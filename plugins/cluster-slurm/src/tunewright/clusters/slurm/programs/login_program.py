"""What is done where Slurm's programs are: in the launcher itself, or on a login node that is reached by SSH.

`answer` gets a request and gives its answer, both of plain JSON types. It decides nothing about jobs: it writes and
reads the files of submissions, and runs Slurm's programs.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

ASK_SECONDS = 120
CLIENT_VARIABLES = ("HOME", "LOGNAME", "SLURM_CLUSTERS", "SLURM_CONF", "USER")
"""All that Slurm's programs get of our environment: SBATCH_PARTITION and the like would change what was planned."""

BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

QUEUE_FIELDS = ("JobArrayID", "State", "Reason", "exit_code", "StartTime", "EndTime", "NodeList", "Name")
ACCOUNT_FIELDS = ("JobID", "State", "ExitCode", "Start", "End", "NodeList", "JobName")
# What these say when they know of no such job, which is an answer.
UNKNOWN_JOB = "Invalid job id specified"
NO_ACCOUNTS = "accounting storage is disabled"


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request. What the cluster refuses is `{"refused": words}`, what failed `{"failed": words}`."""
    verbs = {"submit": submit, "status": status, "read": read, "stop": stop, "keep": keep}
    try:
        return verbs[request["verb"]](request)
    except FileNotFoundError as error:
        what = "there is no program `%s`" if "/" not in str(error.filename) else "there is no `%s`"
        return {"failed": what % error.filename}
    except OSError as error:
        return {"failed": f"{error.filename}: {error.strerror}" if error.filename else str(error)}
    except subprocess.TimeoutExpired as error:
        return {"failed": f"`{error.cmd[0]}` does not answer in {ASK_SECONDS} seconds"}


def submit(request: dict[str, Any]) -> dict[str, Any]:
    """Hand the script to sbatch, or find what was handed before. The directories' lock decides between two of us."""
    directories = request["directories"]
    for directory in directories:
        os.makedirs(directory, exist_ok=True)
    with locked(directories[0]):
        known = read_json(os.path.join(directories[0], "submitted.json"))
        # Whoever died between sbatch and its own note has left a job of this name.
        identity = known.get("id") or named(request["name"]) or ""
        if not identity:
            if request["secrets_needed"] and request["secrets"] is None:
                return {"needs_secrets": True}
            identity, refusal = hand_over(request)
            if refusal:
                return {"refused": refusal}
        if not known:
            note = {"id": identity, "name": request["name"], "is_after": request["is_after"]}
            for directory in reversed(directories):
                write_text(os.path.join(directory, "submitted.json"), json.dumps(note))
    return {"id": identity}


def hand_over(request: dict[str, Any]) -> tuple[str, str]:
    """The job's id and nothing, or nothing and why Slurm would not have it."""
    directories = request["directories"]
    script = os.path.join(directories[0], "job.sbatch")
    write_text(script, request["script"])
    for directory in directories:
        if request["secrets"]:
            write_text(os.path.join(directory, "secrets.json"), json.dumps(request["secrets"]), mode=0o600)
    command = ["sbatch", *request["arguments"], script, os.path.basename(directories[0])]
    try:
        done = run(command, directory=directories[0])
    except BaseException:
        forget_secrets(directories)
        raise
    if done.returncode != 0:
        forget_secrets(directories)
        return "", done.stderr.strip() or f"sbatch ended with {done.returncode}"
    return done.stdout.strip().split(";")[0], ""


def named(name: str) -> str:
    """The id of the job of that name, if Slurm knows one."""
    done = run(["squeue", "--noheader", "--states=all", "--name=" + name, "--Format=ArrayJobID:|,JobID:"])
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    words = [word.strip() for word in lines[0].split("|")] if lines else []
    return next((word for word in words if word.isdigit()), "")


def status(request: dict[str, Any]) -> dict[str, Any]:
    """What is written about each job, and what Slurm says: one squeue, and one sacct for those it has forgotten."""
    documents = {directory: documents_of(directory) for directory in request["directories"]}
    asked = [job["id"] for job in request["jobs"] if "verdict" not in documents.get(job["directory"], {})]
    asked = [identity for identity in asked if identity.replace("_", "").isdigit()]
    queue: list[list[str]] = []
    accounts: list[list[str]] = []
    if asked:
        queue, problem = rows_of_queue(asked)
        if problem:
            return {"documents": documents, "queue": [], "accounts": [], "problem": problem}
        in_queue = {row[0] for row in queue}
        forgotten = [identity for identity in asked if identity not in in_queue]
        accounts = rows_of_accounts(forgotten) if forgotten else []
    return {"documents": documents, "queue": queue, "accounts": accounts, "problem": ""}


def documents_of(directory: str) -> dict[str, Any]:
    """The files about one job that are there, by their names."""
    names = ("verdict", "state", "submitted")
    found = {name: read_json(os.path.join(directory, name + ".json")) for name in names}
    found["stop"] = {"is_asked_for": True} if os.path.exists(os.path.join(directory, "stop")) else {}
    return {name: document for name, document in found.items() if document}


def rows_of_queue(identities: list[str]) -> tuple[list[list[str]], str]:
    """A row of QUEUE_FIELDS for each job that Slurm still knows, or why it cannot be asked.

    Not by `--json`: before Slurm 23.02 that gives every job of the cluster, whatever one asks for.
    """
    fields = ":|,".join(QUEUE_FIELDS) + ":"
    numbers = ",".join(sorted({identity.partition("_")[0] for identity in identities}))
    command = ["squeue", "--noheader", "--array", "--states=all", "--jobs=" + numbers, "--Format=" + fields]
    done = run(command)
    if done.returncode != 0 and UNKNOWN_JOB not in done.stderr:
        return [], done.stderr.strip() or f"squeue ended with {done.returncode}"
    return rows(done.stdout, len(QUEUE_FIELDS)), ""


def rows_of_accounts(identities: list[str]) -> list[list[str]]:
    """A row of ACCOUNT_FIELDS for each job in the accounts. None where Slurm keeps none."""
    command = ["sacct", "--noheader", "--parsable2", "--allocations", "--jobs=" + ",".join(identities)]
    try:
        done = run([*command, "--format=" + ",".join(ACCOUNT_FIELDS)])
    except FileNotFoundError:
        return []
    return rows(done.stdout, len(ACCOUNT_FIELDS)) if done.returncode == 0 else []


def rows(text: str, number: int) -> list[list[str]]:
    """The lines of `text`, each split into `number` words."""
    split = ([word.strip() for word in line.split("|", number - 1)] for line in text.splitlines())
    return [row for row in split if len(row) == number]


def read(request: dict[str, Any]) -> dict[str, Any]:
    """A piece of a file from byte `since` on, in base64; nothing where there is none."""
    try:
        with open(request["path"], "rb") as file:
            file.seek(request["since"])
            piece = file.read(request["most_bytes"])
    except FileNotFoundError:
        piece = b""
    return {"base64": base64.b64encode(piece).decode()}


def stop(request: dict[str, Any]) -> dict[str, Any]:
    """Leave a note that it was asked for, and cancel the job with all of its processes."""
    if os.path.isdir(request["directory"]):
        write_text(os.path.join(request["directory"], "stop"), "")
    done = run(["scancel", request["id"]])
    if done.returncode != 0 and UNKNOWN_JOB not in done.stderr:
        return {"failed": done.stderr.strip() or f"scancel ended with {done.returncode}"}
    forget_secrets([request["directory"]])
    return {}


def keep(request: dict[str, Any]) -> dict[str, Any]:
    """Keep how jobs ended: Slurm forgets it soon. What they were started with is not needed any more."""
    for directory, verdict in request["verdicts"].items():
        with contextlib.suppress(OSError):
            if request["is_new"]:
                os.makedirs(directory, exist_ok=True)
            write_text(os.path.join(directory, "verdict.json"), json.dumps(verdict))
    forget_secrets(list(request["verdicts"]))
    return {}


def forget_secrets(directories: list[str]) -> None:
    """Remove what is left of them."""
    for directory in directories:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(directory, "secrets.json"))


def run(command: list[str], directory: str = "/") -> subprocess.CompletedProcess[str]:
    """Run a program of Slurm's with nothing of our environment that could change what it does, or reach the job."""
    program = shutil.which(command[0])
    if program is None:
        raise FileNotFoundError(2, "No such program", command[0])
    variables = {name: os.environ[name] for name in CLIENT_VARIABLES if name in os.environ}
    # What sbatch gets, the batch script gets: on the nodes Slurm's programs are where they are here.
    variables["PATH"] = f"{os.path.dirname(program)}:{BASE_PATH}"
    if command[0] != "sbatch":
        variables["TZ"] = "UTC"  # for the times they tell
    return subprocess.run(
        command, cwd=directory, env=variables, stdin=subprocess.DEVNULL, capture_output=True,
        encoding="utf-8", errors="replace", timeout=ASK_SECONDS, check=False,
    )  # fmt: skip


@contextlib.contextmanager
def locked(directory: str) -> Iterator[None]:
    """Only one of us at a time; the kernel lets go when we die."""
    descriptor = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_json(path: str) -> dict[str, Any]:
    """The document, or an empty one where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def write_text(path: str, text: str, mode: int = 0o644) -> None:
    """Put a file in place as a whole."""
    temporary = f"{path}.{os.getpid()}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)
