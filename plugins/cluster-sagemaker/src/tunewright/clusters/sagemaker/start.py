"""The first program of each container: puts the run's files in place, and runs the job's command until it ends.

It is sent with the job and needs Python 3.8 and its standard library; botocore too, where the job has secrets.
`start_program` reads this file as text: it imports nothing of ours.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MASTER_PORT = "29500"
CONFIGURATION_ERROR = 78
HOPELESS = (64, 65, 66, 77, 78)
"""Exit codes of what stays wrong: the command is not started again for them."""


class Stopped:
    """Whether SageMaker has asked for the end, and the command that it is passed on to."""

    def __init__(self) -> None:
        self.is_asked_for = False
        self.process: subprocess.Popen[bytes] | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.pass_on)

    def pass_on(self, number: int, _frame: Any) -> None:
        """To every process of the command's group: that is its own session."""
        self.is_asked_for = True
        if self.process is not None:
            _signal_group(self.process.pid, number)


def main(root: str) -> int:
    """Run the job of the container whose `/opt/ml` is `root`. Gives its exit code, 128+n for signal n."""
    stopped, place = Stopped(), Path(root)
    config = place / "input" / "config"
    job = read_job(config / "hyperparameters.json")
    hosts = json.loads((config / "resourceconfig.json").read_text())
    ordered = in_order(hosts["hosts"])
    rank = ordered.index(hosts["current_host"])
    attempt = 0
    try:
        put_in_place(job, place)
        attempts = Attempts(Path(job["run_dir"]) / "sagemaker" / job_name() / f"attempts-{rank}")
        secrets = fetch_secrets(job["secrets"])
        while True:
            attempt = attempts.begin()
            variables = {**job["variables"], **secrets, **rendezvous(ordered, rank, attempt)}
            code, words = run_command(job["command"], variables, stopped)
            if not is_tried_again(job, code, attempt, stopped):
                break
            time.sleep(min(30.0, 0.2 * 2**attempt))
    except (OSError, ValueError, LookupError, ImportError) as error:
        code, words = CONFIGURATION_ERROR, f"exit code {CONFIGURATION_ERROR}: it could not start: {error}"
        print(f"the job could not start: {error}", file=sys.stderr, flush=True)
    if code:
        say_failure(place, f"node {rank}, attempt {attempt}: {words}")
    return code


def in_order(hosts: list[str]) -> list[str]:
    """The nodes by their numbers: algo-10 comes after algo-9, also where SageMaker has sorted the names."""
    return sorted(hosts, key=lambda host: (len(host), host))


def job_name() -> str:
    """The training job's name, as SageMaker tells it: a run that goes on is another job with attempts of its own."""
    return os.environ.get("TRAINING_JOB_NAME", "job")


def read_job(path: Path) -> dict[str, Any]:
    """What the submission sent, in pieces: a hyperparameter holds 2,500 characters."""
    pieces = json.loads(path.read_text())
    text = "".join(pieces[name] for name in sorted(pieces) if name.startswith("job-"))
    job: dict[str, Any] = json.loads(base64.b64decode(text))
    return job


def put_in_place(job: dict[str, Any], root: Path) -> None:
    """Make channels and the run's directory be found where the job looks for them, and write the run's files.

    SageMaker copies `/opt/ml/checkpoints` to S3 all the time, and back where the job starts again.
    """
    for at, channel in sorted(job["links"].items()):
        link(Path(at), root / "input" / "data" / channel)
    run_dir = Path(job["run_dir"])
    checkpoints = root / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    link(run_dir, checkpoints)
    for name, document in job["files"].items():
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        temporary = run_dir / f".{name}.{os.urandom(4).hex()}.tmp"  # on a shared disk every node writes
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(run_dir / name)


def link(path: Path, target: Path) -> None:
    """Make `path` lead to `target`, unless something is there."""
    if not os.path.lexists(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)


class Attempts:
    """How often the command was started, over starts of the container where SageMaker puts the run's files back."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def begin(self) -> int:
        """The number of the start that is next: 0, 1, ..."""
        number = int(self._path.read_text()) if self._path.is_file() else 0
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        temporary.write_text(str(number + 1))
        temporary.replace(self._path)
        return number


def fetch_secrets(names: dict[str, str]) -> dict[str, str]:
    """The secrets' values, from AWS Secrets Manager, as the job's role may read them."""
    if not names:
        return {}
    try:
        from botocore.exceptions import BotoCoreError, ClientError  # pants: no-infer-dep
        from botocore.session import Session  # pants: no-infer-dep
    except ImportError:
        raise ImportError(
            "the job has secrets, and this Python has no botocore to ask AWS Secrets Manager with: "
            "set cluster.options.python to one that has"
        ) from None
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    client = Session().create_client("secretsmanager", region_name=region)
    values = {}
    for variable, name in names.items():
        try:
            values[variable] = client.get_secret_value(SecretId=name)["SecretString"]
        except (BotoCoreError, ClientError, KeyError) as error:
            raise LookupError(f"cluster.secrets.{variable}: cannot read the secret `{name}`: {error}") from None
    return values


def rendezvous(hosts: list[str], rank: int, attempt: int) -> dict[str, str]:
    """The variables that the cluster adds."""
    variables = {"TUNEWRIGHT_ATTEMPT": str(attempt)}
    if len(hosts) > 1:
        variables["TUNEWRIGHT_NODE_RANK"] = str(rank)
        variables["TUNEWRIGHT_MASTER_ADDRESS"] = hosts[0]
        variables["TUNEWRIGHT_MASTER_PORT"] = MASTER_PORT
    return variables


def run_command(command: list[str], variables: dict[str, str], stopped: Stopped) -> tuple[int, str]:
    """Run the command once, output and errors in one stream. Gives its exit code and the words for it."""
    kills_before = num_memory_kills()
    try:
        process = subprocess.Popen(
            command, env={**os.environ, **variables}, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        words = f"the program `{command[0]}` cannot be started: {error.strerror}"
        print(words, file=sys.stderr, flush=True)
        return 127, f"exit code 127: {words}"
    stopped.process = process
    if stopped.is_asked_for:  # between two starts
        _signal_group(process.pid, signal.SIGTERM)
    status = process.wait()
    stopped.process = None
    _signal_group(process.pid, signal.SIGKILL)  # what it left must not be there at the next start
    if status >= 0:
        return status, f"exit code {status}"
    is_short_of_memory = status == -signal.SIGKILL and num_memory_kills() > kills_before
    return 128 - status, f"{'out of memory, ' if is_short_of_memory else ''}signal {-status}"


def num_memory_kills(groups: str = "/sys/fs/cgroup") -> int:
    """How many processes of this container the kernel has killed for memory; 0 where it does not tell."""
    for name, key in (("memory.events", "oom_kill"), ("memory/memory.oom_control", "oom_kill")):
        try:
            lines = Path(groups, name).read_text().splitlines()
        except OSError:
            continue
        return sum(int(line.split()[1]) for line in lines if line.split()[0] == key)
    return 0


def is_tried_again(job: dict[str, Any], code: int, attempt: int, stopped: Stopped) -> bool:
    """Whether the command is started again here. Several nodes would have to be, all at once: there SageMaker is."""
    if code == 0 or code in HOPELESS or stopped.is_asked_for:
        return False
    return bool(job["nodes"] == 1 and attempt < job["max_retries"])


def say_failure(root: Path, words: str) -> None:
    """What SageMaker makes the job's FailureReason."""
    path = root / "output" / "failure"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(words[:1000], encoding="utf-8")


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
