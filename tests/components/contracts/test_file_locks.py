"""Locks of files: one holder at a time, and none that outlives its process."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tunewright.contracts.file_locks import held, is_held

HOLDER = """
import sys
from pathlib import Path
from tunewright.contracts.file_locks import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_holder(lock: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds `lock` until its input ends or it is killed."""
    command = [sys.executable, "-c", HOLDER, str(lock)]
    process = subprocess.Popen(
        command, env={"PYTHONPATH": ":".join(sys.path)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_lock_is_held_as_long_as_the_block_runs_and_its_file_stays(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert not is_held(lock)
    assert not lock.exists(), "asking made the file"
    with held(lock, lambda: pytest.fail("nobody has it")):
        assert is_held(lock)
    assert not is_held(lock)
    assert lock.exists()


def test_a_lock_is_given_back_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="failed"), held(tmp_path / "lock"):
        raise ValueError("failed")
    assert not is_held(tmp_path / "lock")


def test_who_waits_is_told_first_and_gets_the_lock_when_its_holder_is_killed(tmp_path: Path) -> None:
    lock, told = tmp_path / "lock", []
    with another_holder(lock) as holder:
        assert is_held(lock)

        def on_wait() -> None:
            told.append(is_held(lock))
            holder.kill()

        with held(lock, on_wait):
            assert holder.wait() == -9
    assert told == [True]


def test_who_asks_is_not_taken_for_the_holder_by_another_who_asks(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as asked:
        fcntl.flock(asked, fcntl.LOCK_SH)
        assert not is_held(tmp_path / "lock")


def test_a_lock_that_cannot_be_opened_is_not_called_free(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to("lock")
    with pytest.raises(OSError, match="symbolic links"):
        is_held(tmp_path / "lock")


def test_the_file_is_as_private_as_it_was_asked_for(tmp_path: Path) -> None:
    with held(tmp_path / "lock", mode=0o600):
        assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
