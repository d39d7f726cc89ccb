"""Who makes a cache: one preparer at a time, also across machines, and the next one where it is killed.

Two things say that somebody is at it. The kernel's lock of a file says so among the processes of one machine, and is
free at the moment its holder dies. A record in a slot (a file beside the caches, or an object beside them) says so to
other machines: its holder rewrites it every few seconds, and whoever sees it unchanged for long, by their own clock,
takes it over. A lock only saves work: caches stay whole where it fails (see `filling` and the stores).
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from tunewright.contracts.errors import Unavailable

_SURELY_DEAD_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Timing:
    """How often a holder gives a sign of life, and what others make of its silence."""

    beat_seconds: float = 5.0
    stale_seconds: float = 90.0
    """Clients of NFS may go on seeing a replaced file for 60 seconds (`acdirmax`)."""

    settle_seconds: float = 1.0
    """After a takeover: two at the same moment both believe in it until they look again."""


@dataclass(frozen=True)
class Holder:
    """Who makes a cache."""

    owner: str
    """Random: no two are alike."""

    host: str
    pid: int
    since: str
    """UTC."""

    kernel_lock: str
    """Names the lock of the kernel that the holder has too. Who gets that very lock knows that the holder is dead."""

    beat: int = 0
    is_released: bool = False

    @classmethod
    def here(cls, kernel_lock: str) -> Holder:
        """This process."""
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        return cls(os.urandom(16).hex(), os.uname().nodename, os.getpid(), since, kernel_lock)

    @classmethod
    def parse(cls, data: bytes) -> Holder | None:
        """The holder of a record; None for one that is just being written, or is of another version."""
        try:
            return cls(**json.loads(data))
        except (ValueError, TypeError):
            return None

    def to_bytes(self) -> bytes:
        """The record."""
        return json.dumps(asdict(self)).encode()

    def __str__(self) -> str:
        return f"host {self.host}, process {self.pid}, since {self.since}"


@dataclass(frozen=True)
class Seen:
    """A record as it was read."""

    data: bytes
    version: str
    """Changes with every write."""


class Slot(Protocol):
    """The place of one record."""

    @property
    def poll_seconds(self) -> float:
        """Seconds between two looks of one who waits."""

    def read(self) -> Seen | None:
        """What stands there."""

    def create(self, data: bytes) -> str | None:
        """Write where nothing stands: the version, or None where somebody was quicker."""

    def replace(self, data: bytes, version: str) -> str | None:
        """Write over `version`: the new version, or None where that does not stand there any more."""

    def clear(self, last: bytes, version: str) -> None:
        """Free the place where `version` stands there; `last` is a record that says so."""


@dataclass(frozen=True)
class FileSlot:
    """A record in a file. It is renamed into place: nobody reads half of it."""

    path: Path
    poll_seconds: float = 0.1

    def read(self) -> Seen | None:
        """The file's content is its version, too."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        return Seen(data, data.decode(errors="replace"))

    def create(self, data: bytes) -> str | None:
        """Exclusive on every file system: a record that is seen empty is just being written."""
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            return None
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        return data.decode()

    def replace(self, data: bytes, version: str) -> str | None:
        """Not exclusive where two do it at once: they look again after a moment."""
        seen = self.read()
        if seen is None or seen.version != version:
            return None
        temporary = self.path.with_name(f"{self.path.name}.{os.urandom(4).hex()}.tmp")
        # Not synced: after a power cut nobody holds anything.
        temporary.write_bytes(data)
        os.replace(temporary, self.path)
        return data.decode()

    def clear(self, last: bytes, version: str) -> None:
        """Remove the file."""
        seen = self.read()
        if seen is not None and seen.version == version:
            self.path.unlink(missing_ok=True)


_open_locks: set[int] = set()


def _close_in_child() -> None:
    for descriptor in _open_locks:
        with suppress(OSError):
            os.close(descriptor)
    _open_locks.clear()


# A forked worker that outlives its killed parent must not keep the parent's lock.
os.register_at_fork(after_in_child=_close_in_child)


class KernelLock:
    """`flock` of a file. Where the file system has none, it is always had, and names nothing that anybody shares."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self.name = f"none {os.urandom(16).hex()}"

    def try_take(self) -> bool:
        """Whether we have it now."""
        if self._descriptor is not None:
            return True
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        status = os.fstat(descriptor)
        with suppress(OSError):
            self.name = f"{_kernel_id()} {status.st_dev} {status.st_ino}"
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:  # this file system has no such locks
            self.name = f"none {os.urandom(16).hex()}"
        self._descriptor = descriptor
        _open_locks.add(descriptor)
        if _is_file(self._path, status):
            return True
        self.release()  # it was removed, and perhaps made anew, since we opened it
        return False

    def release(self) -> None:
        """Give it back. The file stays: removing it would let two in."""
        if self._descriptor is not None:
            _open_locks.discard(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None


def _is_file(path: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), status)
    except FileNotFoundError:
        return False


def _kernel_id() -> str:
    """The same for all processes of one running kernel, containers included."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Lease:
    """A lock that is held. A thread gives the signs of life."""

    def __init__(self, slot: Slot, holder: Holder, version: str, beat_seconds: float) -> None:
        self.is_lost = False
        """Somebody has taken it over: we gave no sign of life for long."""

        self._slot, self._holder, self._version, self._beat_seconds = slot, holder, version, beat_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._ended.wait(self._beat_seconds) and not self.is_lost:
            self.check()

    def check(self) -> None:
        """Give a sign of life, and find out whether the lock is still ours. A storage that does not answer says no."""
        holder = replace(self._holder, beat=self._holder.beat + 1)
        with suppress(OSError, Unavailable):
            version = self._slot.replace(holder.to_bytes(), self._version)
            if version is None:
                self.is_lost = True
            else:
                self._holder, self._version = holder, version

    def end(self) -> None:
        """Free the lock."""
        self._ended.set()
        self._thread.join()
        if not self.is_lost:
            with suppress(OSError, Unavailable):
                self._slot.clear(replace(self._holder, is_released=True).to_bytes(), self._version)


class WorkLock:
    """The lock on the work for one cache."""

    def __init__(self, kernel_lock: KernelLock, slot: Slot, timing: Timing | None = None) -> None:
        self._kernel, self._slot, self._timing = kernel_lock, slot, timing or Timing()

    @contextmanager
    def held(self, on_wait: Callable[[str], None]) -> Iterator[Lease]:
        """Be the only one. `on_wait` hears, once, who is at it where somebody is."""
        lease = self._take(on_wait)
        try:
            yield lease
        except OSError as error:
            if lease.is_lost:
                words = f"another process took the work over: this one gave no sign of life ({error})"
                raise Unavailable(words, "run it again: it finds what the other one has made") from error
            raise
        finally:
            lease.end()
            self._kernel.release()

    @contextmanager
    def held_if_free(self, age_seconds: float) -> Iterator[bool]:
        """Be the only one where nobody is at it, or who was is known to be dead. False: somebody is; do nothing.

        `age_seconds`: how old the record is by the clock of who keeps it. Clocks differ: only a day is believed.
        """
        unchanged_seconds = age_seconds if age_seconds > _SURELY_DEAD_SECONDS else 0.0
        lease = self._claim(self._kernel.try_take(), self._slot.read(), unchanged_seconds)
        try:
            yield lease is not None
        finally:
            if lease is not None:
                lease.end()
            self._kernel.release()

    def _take(self, on_wait: Callable[[str], None]) -> Lease:
        unchanged: Seen | None = None
        unchanged_since, has_told = time.monotonic(), False
        while True:
            has_kernel_lock, seen = self._kernel.try_take(), self._slot.read()
            if seen != unchanged:
                unchanged, unchanged_since = seen, time.monotonic()
            lease = self._claim(has_kernel_lock, seen, time.monotonic() - unchanged_since)
            if lease is not None:
                return lease
            holder = Holder.parse(seen.data) if seen else None
            if holder is not None and not holder.is_released and not has_told:
                has_told = True
                on_wait(str(holder))
            time.sleep(self._slot.poll_seconds)

    def _claim(self, has_kernel_lock: bool, seen: Seen | None, unchanged_seconds: float) -> Lease | None:
        if not may_take(seen, has_kernel_lock, self._kernel.name, unchanged_seconds, self._timing.stale_seconds):
            return None
        holder = Holder.here(self._kernel.name)
        data = holder.to_bytes()
        version = self._slot.create(data) if seen is None else self._slot.replace(data, seen.version)
        if version is None:
            return None
        if unchanged_seconds >= self._timing.stale_seconds:
            time.sleep(self._timing.settle_seconds)
            now = self._slot.read()
            if now is None or now.version != version:
                return None
        return Lease(self._slot, holder, version, self._timing.beat_seconds)


def may_take(
    seen: Seen | None, has_kernel_lock: bool, kernel_lock: str, unchanged_seconds: float, stale_seconds: float
) -> bool:
    """Whether nobody alive is at it. Pure.

    The kernel knows of its own processes, and of them alone; of others the signs of life tell.
    """
    holder = Holder.parse(seen.data) if seen is not None else None
    if holder is not None and holder.kernel_lock == kernel_lock:
        return has_kernel_lock
    is_free = seen is None or (holder is not None and holder.is_released)
    return (is_free and has_kernel_lock) or unchanged_seconds >= stale_seconds
