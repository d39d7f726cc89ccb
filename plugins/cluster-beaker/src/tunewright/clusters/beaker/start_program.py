"""What every node starts with: it becomes the job's command in all but name, and keeps the log.

Its text is part of the plan, run by `python3 -I -c`: the standard library of Python 3.9, nothing of ours. Beaker's own
log has lines and no bytes, and ends where a job is started again; so the command writes to a file in the run's
directory, and what arrives there is copied to Beaker's page.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

MARK = "base64:"
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
Settings = dict[str, Any]
Variables = dict[bytes, bytes]
PAUSE_SECONDS = 0.05
CANNOT_START = 78


def decode(text: str) -> bytes:
    """The bytes of an argument or a variable, as they were before Beaker carried them."""
    return base64.b64decode(text[len(MARK) :]) if text.startswith(MARK) else os.fsencode(text)


def environment_of_process() -> dict[bytes, bytes]:
    """The variables this process was started with: Python may have added one of its own since."""
    block = Path("/proc/self/environ").read_bytes()
    return dict(entry.split(b"=", 1) for entry in block.split(b"\0") if b"=" in entry)


def count_attempt(jobs: Path, job: str) -> int:
    """How many other jobs of Beaker were this node before: each start leaves its id in a file of the run."""
    before = jobs.read_text().split() if jobs.exists() else []
    if job not in before:
        with jobs.open("a") as file:
            file.write(job + "\n")
    return before.index(job) if job in before else len(before)


def job_environment(
    settings: dict[str, Any], variables: dict[bytes, bytes], rank: int, attempt: int
) -> dict[bytes, bytes]:
    """The command's variables: the machine's and the planned ones, and what only the node knows."""
    for name in settings["encoded"]:
        variables[name.encode()] = decode(os.fsdecode(variables[name.encode()]))
    own = {"TUNEWRIGHT_ATTEMPT": str(attempt)}
    if settings["nodes"] > 1:
        own["TUNEWRIGHT_NODE_RANK"] = str(rank)
        own["TUNEWRIGHT_MASTER_ADDRESS"] = os.environ["BEAKER_LEADER_REPLICA_HOSTNAME"]
        own["TUNEWRIGHT_MASTER_PORT"] = settings["port"]
    return {**variables, **{name.encode(): value.encode() for name, value in own.items()}}


def out_of_memory_kills() -> int:
    """Processes of this container that were killed for memory so far."""
    for path in (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control")):
        try:
            words = path.read_text().split()
        except OSError:
            continue
        if "oom_kill" in words:
            return int(words[words.index("oom_kill") + 1])
    return 0


class Node:
    """The command while it runs: signals go to it, and its log to Beaker's page."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.child: subprocess.Popen[bytes] | None = None
        self.early: list[int] = []
        for number in FORWARDED:
            signal.signal(number, self.forward)

    def forward(self, number: int, frame: FrameType | None) -> None:
        """Pass a signal on; one that comes before the command is kept for it."""
        if self.child is None:
            self.early.append(number)
        elif self.child.returncode is None:
            os.kill(self.child.pid, number)

    def run(self, command: list[bytes], environment: dict[bytes, bytes], directory: str) -> int:
        """Run the command to its end, and give its code: 128 + n where signal n ended it."""
        with self.log.open("ab") as log, self.log.open("rb") as reader:
            reader.seek(0, os.SEEK_END)
            self.child = subprocess.Popen(
                command, env=environment, cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            for number in self.early:
                os.kill(self.child.pid, number)
            while self.is_running():
                self.show(reader)
                time.sleep(PAUSE_SECONDS)
            self.show(reader)
        code = self.child.returncode
        return 128 - code if code < 0 else code

    def is_running(self) -> bool:
        """Whether the command runs. As the container's first process we also bury what others left behind."""
        assert self.child is not None
        while self.child.returncode is None:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return True
            if process == self.child.pid:
                self.child.returncode = os.waitstatus_to_exitcode(status)
        return False

    @staticmethod
    def show(reader: BinaryIO) -> None:
        """Copy what is new in the log to Beaker's page. What happens to the page does not touch the job."""
        while True:
            piece = reader.read(1 << 16)
            if not piece:
                return
            try:
                sys.stdout.buffer.write(piece)
                sys.stdout.buffer.flush()
            except OSError:
                return


def main() -> int:
    """Prepare the node, run the command, leave a note of how it ended."""
    settings = json.loads(decode(sys.argv[1]))
    command = [decode(text) for text in sys.argv[2:]]
    rank, job = int(os.environ.get("BEAKER_REPLICA_RANK") or 0), os.environ.get("BEAKER_JOB_ID") or "job"
    experiment = os.environ.get("BEAKER_WORKLOAD_ID") or os.environ.get("BEAKER_EXPERIMENT_ID") or "experiment"
    run_dir = Path(settings["run_dir"])
    notes = run_dir / "beaker" / experiment
    try:
        for directory in (notes, run_dir / "logs"):
            directory.mkdir(parents=True, exist_ok=True)
        attempt = count_attempt(notes / f"replica-{rank}.jobs", job)
        node = Node(run_dir / "logs" / f"replica-{rank}.log")
        environment = job_environment(settings, environment_of_process(), rank, attempt)
    except (OSError, KeyError) as error:
        print(f"this node cannot run the job: {error!r}; is {run_dir} on storage that it sees?", file=sys.stderr)
        return CANNOT_START
    kills = out_of_memory_kills()
    complaint, code = "", 0
    try:
        code = node.run(command, environment, settings["run_dir"])
    except (FileNotFoundError, PermissionError) as error:
        program = os.fsdecode(command[0])
        complaint = f"the program `{program}` cannot be started: {error.strerror}"
        code = 127 if isinstance(error, FileNotFoundError) else 126
        print(complaint, file=sys.stderr)
    is_out_of_memory = code != 0 and out_of_memory_kills() > kills
    if is_out_of_memory:
        print("the job was killed: out of memory", file=sys.stderr)
    if complaint or is_out_of_memory:
        note = {"exit_code": code, "out_of_memory": is_out_of_memory, "complaint": complaint}
        temporary = notes / f".{job}.json"
        temporary.write_text(json.dumps(note))
        temporary.replace(notes / f"{job}.json")
    return code


if __name__ == "__main__":
    sys.exit(main())
