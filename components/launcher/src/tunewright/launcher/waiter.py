"""The detached waiter: a process of its own that starts a batch's runs when they may, after the launcher has gone.

It runs from a copy of our program, so that nothing beneath it can change or go: under `pants run` the sandbox with the
sources ends with the command, a checkout may be switched to another commit, a wheel may be upgraded.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import click

from tunewright.contracts.errors import TunewrightError, Unavailable
from tunewright.contracts.files import write_json_atomically
from tunewright.contracts.timestamps import utc_now
from tunewright.launcher.batch import Batch, read_batch
from tunewright.launcher.program_copy import copy_program, remove_program
from tunewright.launcher.run_store import read_json

WAITER_FILE = "waiter.json"
LOG_FILE = "waiter.log"
_BEGUN = b"!"
_START_TIMEOUT_SECONDS = 30.0
_TURN_TIMEOUT_SECONDS = 20.0

# What makes our own Python start as it did, and would make another one start wrong.
_PROGRAM_VARIABLES = ("PANTS_", "_PANTS", "PANTSD_", "PEX", "_PEX", "__PEX", "PYTHON", "VIRTUAL_ENV", "PYENV_")

_BOOT = """\
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from tunewright.launcher.waiter import main
main(sys.argv[2:])
"""


def start_waiter(batch: Batch) -> None:
    """Start the waiter of `batch`, unless somebody starts its runs already. Returns once it has begun.

    Raises Unavailable where it does not begin.
    """
    from tunewright.launcher.drive import is_somebodys_turn

    if is_somebodys_turn(batch.directory):
        return
    program = copy_program(batch.directory)
    (batch.directory / WAITER_FILE).unlink(missing_ok=True)
    path = json.dumps(program.path)
    command = [program.python, "-I", "-X", "utf8", "-c", _BOOT, path, str(batch.home), batch.kind, batch.name]
    read_end, write_end = os.pipe()
    with open(read_end, "rb", buffering=0) as answer:
        with open(write_end, "wb"), (batch.directory / LOG_FILE).open("ab") as log:
            process = subprocess.Popen(
                [*command, str(write_end)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=batch.home,
                env=_variables(batch.home), start_new_session=True, pass_fds=[write_end],
            )  # fmt: skip
        _wait_for_first_word(batch, answer)
    process.returncode = 0  # it goes on after us: nobody here waits for it
    click.echo(f"{batch.kind} {batch.name}: a waiter starts the rest (process {process.pid}): {log.name}", err=True)


def _variables(home: Path) -> dict[str, str]:
    """Ours, without what belongs to the way in which this program was started. Clusters need the rest: PATH, tokens."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_PROGRAM_VARIABLES)}
    return {**kept, "TUNEWRIGHT_HOME": str(home)}


def _wait_for_first_word(batch: Batch, answer: BinaryIO) -> None:
    """Return once it has said that it has begun; it may have ended since. Raises Unavailable where it does not."""
    is_said, _, _ = select.select([answer], [], [], _START_TIMEOUT_SECONDS)
    if not is_said or answer.read(1) != _BEGUN:
        log = batch.directory / LOG_FILE
        raise Unavailable(
            f"{batch.kind} {batch.name}: the waiter did not start: {_last_words(log)} (see {log})",
            "without --detach this launcher starts the rest itself",
        )


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def main(arguments: list[str]) -> None:
    """The waiter itself: HOME KIND NAME DESCRIPTOR, the last a pipe's, to which it says that it has begun.

    Its output is the log.
    """
    home, kind, name, descriptor = arguments
    batch = read_batch(Path(home), "sweep" if kind == "sweep" else "pipeline", name)
    assert batch is not None, "its document was written before we were started"
    try:
        code = wait_for(batch, int(descriptor))
    except TunewrightError as error:
        _say(f"error: {error}")
        code = error.exit_code
    finally:
        with contextlib.suppress(FileNotFoundError):
            if read_json(batch.directory / WAITER_FILE).get("pid") == os.getpid():
                (batch.directory / WAITER_FILE).unlink()
    remove_program(batch.directory)
    sys.exit(code)


def wait_for(batch: Batch, descriptor: int) -> int:
    """Say to the pipe `descriptor` that it has begun, and bring the batch to its end.

    Gives the batch's exit code; 0, without a word, where somebody else brings it to its end.
    """
    from tunewright.contracts.plugins import PluginHost
    from tunewright.launcher.batch import exit_code_of
    from tunewright.launcher.batch_progress import LineBatch
    from tunewright.launcher.batch_results import results_of, table_text
    from tunewright.launcher.drive import drive, turn_of
    from tunewright.launcher.watch import Watch

    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    with turn_of(batch) as turn:
        deadline = time.monotonic() + _TURN_TIMEOUT_SECONDS
        while not turn.take():  # the launcher that started us may have it for a moment
            if time.monotonic() > deadline:
                _say("somebody else starts the runs")
                return 0
            time.sleep(0.05)
        write_json_atomically(batch.directory / WAITER_FILE, this_process())
        _say(f"waiting, as process {os.getpid()}")
        with contextlib.suppress(BrokenPipeError):  # whoever started us has been ended meanwhile
            os.write(descriptor, _BEGUN)
        os.close(descriptor)  # no job of ours inherits it
        statuses = drive(Watch(batch, PluginHost.discover()), LineBatch(batch, _say), turn)
    _say("all have ended\n" + table_text(batch, results_of(batch, statuses)))
    return exit_code_of(batch.members, statuses)


def _say(line: str) -> None:
    click.echo(f"{utc_now()}  {line}", err=True)


def this_process() -> dict[str, Any]:
    """What tells this process from any other, also from a later one with its number."""
    return {"pid": os.getpid(), "start_time": start_time_of(os.getpid()), "host": os.uname().nodename}


def start_time_of(pid: int) -> str | None:
    """When the process started, in the kernel's own words; None where it has ended, or the kernel does not say."""
    try:
        # The name in parentheses may hold anything, parentheses and spaces too.
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return fields[19] if fields[0] != "Z" else None


def end_waiter(batch: Batch) -> bool:
    """End the waiter, where it runs on this machine: its jobs go on. Gives whether there was one."""
    process = read_json(batch.directory / WAITER_FILE)
    if not _is_alive(process):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(process["pid"]), signal.SIGTERM)
    deadline = time.monotonic() + _TURN_TIMEOUT_SECONDS
    while _is_alive(process) and time.monotonic() < deadline:
        time.sleep(0.02)
    return True


def _is_alive(process: Mapping[str, Any]) -> bool:
    """Whether the process of `waiter.json` still runs here. Without a start time (no Linux) the number must do."""
    pid = process.get("pid")
    if not isinstance(pid, int) or process.get("host") != os.uname().nodename:
        return False
    if process.get("start_time") is not None:
        return bool(start_time_of(pid) == process["start_time"])
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
