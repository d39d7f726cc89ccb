"""The program: takes a job over from its submitter, or from a supervisor that was killed, and runs it as a daemon.

`python -I -S supervisor.pyz STATE_DIRECTORY`, with the secrets as one line of JSON on standard input (`null` where they
are not known). It answers with one line of JSON, and needs neither the launcher nor its PEX from then on.

In the state directory: `docker.json` and `node-*.json` are the plan; `known.json` is what the submission found out;
`state.json` is replaced at each change; `lock` is held as long as this process lives; `stop` is made by whoever wants
the job to end; `supervisor.log` is what this program complains of.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import time

from tunewright.clusters.docker.supervision.engine import DaemonGoneError, DockerError
from tunewright.clusters.docker.supervision.record import ENDED, Record
from tunewright.clusters.docker.supervision.supervisor import Supervisor

STARTED, TAKEN, REFUSED, UNAVAILABLE = "started", "taken", "refused", "unavailable"
LOCK_SECONDS = 1.0


def take_lock(directory: str) -> bool:
    """Hold the job's lock for good, or give False: another supervisor has it. Who only looks holds it for a moment."""
    lock = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        else:
            return True


def tell_submitter(answer: str, message: str = "") -> None:
    """Answer on standard output, and close it: the submitter waits for that."""
    with contextlib.suppress(BrokenPipeError):  # it died while it waited; the job is accepted all the same
        os.write(1, json.dumps({"answer": answer, "message": message}).encode())
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)


def main(directory: str) -> None:
    """Start the job or go on with it, and see it to its end."""
    text = sys.stdin.buffer.read()
    if not text.endswith(b"\n"):
        return  # the submitter died in the middle: whoever submits again starts another supervisor
    if os.fork():
        os._exit(0)  # the submitter collects this one; the daemon is nobody's child
    if not take_lock(directory):
        tell_submitter(TAKEN)
        return
    earlier = Record.find(directory)
    supervisor = Supervisor(directory, earlier or Record(directory), json.loads(text))
    if earlier is None:
        try:
            supervisor.begin()
        except DockerError as error:
            tell_submitter(REFUSED, error.message)
            return
        except DaemonGoneError as error:
            tell_submitter(UNAVAILABLE, str(error))
            return
    elif earlier.phase != ENDED:
        supervisor.record.change()  # who looks after it now
    tell_submitter(STARTED)
    supervisor.run()
