"""Who makes a cache: the kernel tells of the dead on this machine, signs of life tell of those on others."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunewright.contracts.errors import Unavailable
from tunewright.dataset_cacher.storage.locks import FileSlot, Holder, KernelLock, Seen, Timing, WorkLock, may_take

QUICK = Timing(beat_seconds=0.05, stale_seconds=0.6, settle_seconds=0.05)
ELSEWHERE = replace(Holder.here("another kernel's lock"), host="elsewhere", pid=4711)


def lock_in(directory: Path, timing: Timing = QUICK) -> WorkLock:
    return WorkLock(KernelLock(directory / "work.lock"), FileSlot(directory / "work.holder"), timing)


def ignore(_who: str) -> None:
    """Nobody is told."""


@pytest.mark.parametrize(
    ("holder", "has_kernel_lock", "unchanged_seconds", "expected"),
    [
        (None, True, 0.0, True),
        (None, False, 0.0, False),
        (replace(ELSEWHERE, is_released=True), True, 0.0, True),
        (replace(ELSEWHERE, kernel_lock="ours"), True, 0.0, True),
        (replace(ELSEWHERE, kernel_lock="ours"), False, 1e9, False),
        (ELSEWHERE, True, 89.0, False),
        (ELSEWHERE, True, 90.0, True),
        (ELSEWHERE, False, 90.0, True),
    ],
)
def test_the_kernel_knows_its_own_and_silence_tells_of_others(
    holder: Holder | None, has_kernel_lock: bool, unchanged_seconds: float, expected: bool
) -> None:
    seen = Seen(holder.to_bytes(), "1") if holder else None
    assert may_take(seen, has_kernel_lock, "ours", unchanged_seconds, 90.0) is expected


def test_a_record_that_is_just_being_written_is_somebody() -> None:
    assert may_take(Seen(b"", "1"), True, "ours", 0.0, 90.0) is False


def test_a_killed_holder_of_this_machine_is_followed_at_once(tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "from tunewright.dataset_cacher.storage.locks import *\n"
        "place = Path(sys.argv[1])\n"
        "with WorkLock(KernelLock(place / 'work.lock'), FileSlot(place / 'work.holder')).held(print):\n"
        "    print('held', flush=True)\n    time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        told: list[str] = []
        threading.Timer(0.3, process.send_signal, [signal.SIGKILL]).start()
        started = time.monotonic()
        with lock_in(tmp_path, Timing()).held(told.append):
            assert time.monotonic() - started < 30, "it waited as for one of another machine, 90 seconds"
        assert [f"process {process.pid}," in words and "since 20" in words for words in told] == [True]


def test_a_silent_holder_of_another_machine_is_followed_after_a_while_and_a_living_one_is_not(tmp_path: Path) -> None:
    slot = FileSlot(tmp_path / "work.holder")
    version = slot.create(ELSEWHERE.to_bytes())
    ended = threading.Event()

    def live() -> None:
        beat, last = 0, version
        while not ended.wait(0.1) and last is not None:
            beat += 1
            last = slot.replace(replace(ELSEWHERE, beat=beat).to_bytes(), last)

    thread = threading.Thread(target=live)
    thread.start()
    told: list[str] = []
    threading.Timer(1.2, ended.set).start()
    started = time.monotonic()
    with lock_in(tmp_path).held(told.append):
        waited = time.monotonic() - started
    thread.join()
    assert 1.2 + QUICK.stale_seconds - 0.2 <= waited < 20
    assert told == [str(ELSEWHERE)] and "host elsewhere, process 4711" in told[0]
    assert not (tmp_path / "work.holder").exists()


def test_who_was_taken_over_finds_out_and_says_so(tmp_path: Path) -> None:
    slot = FileSlot(tmp_path / "work.holder")
    with pytest.raises(Unavailable, match="took the work over"), lock_in(tmp_path).held(ignore) as lease:
        (tmp_path / "work.holder").write_bytes(ELSEWHERE.to_bytes())
        deadline = time.monotonic() + 50
        while not lease.is_lost:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        raise FileNotFoundError("its directory is gone")
    seen = slot.read()
    assert seen is not None and Holder.parse(seen.data) == ELSEWHERE


def test_an_error_of_one_who_still_has_the_lock_is_no_takeover(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk is full"), lock_in(tmp_path).held(ignore):
        raise OSError(errno.ENOSPC, "disk is full")
    with lock_in(tmp_path).held_if_free(0.0) as is_free:
        assert is_free


def test_a_fork_that_lives_on_does_not_keep_its_parents_lock(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    is_alive, says_so = os.pipe()
    with lock_in(tmp_path).held(ignore):
        child = os.fork()
        if child == 0:  # lives until the test has seen that the lock is free
            os.close(writing)
            os.write(says_so, b"1")
            os.read(reading, 1)
            os._exit(0)
        os.read(is_alive, 1)
    try:
        assert KernelLock(tmp_path / "work.lock").try_take()
    finally:
        os.close(writing)
        os.waitpid(child, 0)
        for descriptor in (reading, is_alive, says_so):
            os.close(descriptor)


def test_where_the_file_system_has_no_locks_the_record_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_arguments: Any) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    inside: list[int] = []

    def work(number: int) -> None:
        with lock_in(tmp_path).held(ignore):
            inside.append(number)
            time.sleep(0.15)
            inside.append(number)

    threads = [threading.Thread(target=work, args=[number]) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(inside) == 6 and inside[::2] == inside[1::2]


def test_a_lock_file_that_was_removed_while_it_was_opened_is_not_taken_for_the_one_there(tmp_path: Path) -> None:
    first = KernelLock(tmp_path / "work.lock")
    assert first.try_take()
    path, real = tmp_path / "work.lock", fcntl.flock

    def remove_and_lock(descriptor: int, how: int) -> None:
        first.release()
        path.unlink()
        real(descriptor, how)

    second = KernelLock(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", remove_and_lock)
        assert second.try_take() is False
    assert second.try_take() is True and path.is_file()
    second.release()
