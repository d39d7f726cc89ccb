"""Runs jobs as plain processes of this machine, each under a keeper of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunewright.beaker_emulator.launches import STOP_GRACE_SECONDS, Launch, Mounted, Phase, Report

_KEEPER = Path(__file__).with_name("keeper.py")
_CLOSE_SECONDS = 5.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""As images have it: nothing of this process's environment is the task's."""


class ProcessRunner:
    """Images are not looked at: the command runs as it is, among the programs of this machine."""

    def __init__(self, directory: Path, grace_seconds: float = STOP_GRACE_SECONDS) -> None:
        self._directory = directory
        self.grace_seconds = grace_seconds
        self._keepers: dict[str, subprocess.Popen[bytes]] = {}
        self._mount_points: Counter[str] = Counter()
        self._mounts_of: dict[str, tuple[Mounted, ...]] = {}
        self._lock = threading.Lock()
        self._private_mounts = can_mount()

    def start(self, launch: Launch) -> None:
        """A keeper is started, which starts the task."""
        place = self._place(launch.job_id)
        (place / "work").mkdir(parents=True, exist_ok=True)
        if problem := self._make_mount_points(launch):
            self._tell(launch.job_id, {"state": "ended", "problem": problem})
            return
        keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_KEEPER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=(place / "keeper.log").open("wb"),
            start_new_session=True,
            env={},
        )
        (place / "keeper.pid").write_text(f"{keeper.pid} {_start_time(keeper.pid)}")
        self._keepers[launch.job_id] = keeper
        assert keeper.stdin is not None
        keeper.stdin.write(json.dumps(self._document(launch)).encode())
        keeper.stdin.close()

    def report(self, job_id: str) -> Report:
        """As the keeper's file has it; a keeper that died without a word took the task with it."""
        running = self._is_kept(job_id)
        told = self._told(job_id)
        if told is None:
            return Report(Phase.STARTING) if running else _lost(self._place(job_id))
        if told["state"] == "running":
            return Report(Phase.RUNNING) if running else self._ended(job_id, _lost(self._place(job_id)))
        return self._ended(job_id, _judged(told))

    def stop(self, job_id: str) -> None:
        """Asks the keeper."""
        self._signal(job_id, signal.SIGTERM)

    def kill(self, job_id: str) -> None:
        """Asks the keeper."""
        self._signal(job_id, signal.SIGUSR2)

    def log_path(self, job_id: str) -> Path:
        """The keeper writes it."""
        return self._place(job_id) / "log"

    def close(self) -> None:
        """Kills what still runs, and waits until it is gone."""
        for job_id in list(self._keepers):
            self.kill(job_id)
        for keeper in self._keepers.values():
            with suppress(subprocess.TimeoutExpired):
                keeper.wait(_CLOSE_SECONDS)
        for job_id in list(self._mounts_of):
            self._remove_mount_points(job_id)

    def _document(self, launch: Launch) -> dict[str, Any]:
        place = self._place(launch.job_id)
        return {
            "command": [*launch.command, *launch.arguments],
            "environment": {"PATH": _PATH, "HOME": str(place / "work"), **launch.environment},
            "directory": str(place / "work"),
            "mounts": [
                {"source": str(mount.source), "target": mount.target, "read_only": mount.read_only}
                for mount in launch.mounts
            ],
            "private_mounts": self._private_mounts,
            "memory_bytes": launch.memory_bytes,
            "grace_seconds": self.grace_seconds,
            "log": str(self.log_path(launch.job_id)),
            "status": str(place / "status.json"),
        }

    def _make_mount_points(self, launch: Launch) -> str:
        """Something to mount on, or a link to what is mounted. What could not be made, in words."""
        if not launch.command:
            return "the spec has no command, and runner `process` does not know the image's"
        with self._lock:
            self._mounts_of[launch.job_id] = launch.mounts
            for mount in launch.mounts:
                try:
                    self._make_mount_point(mount)
                except OSError as error:
                    return f"cannot mount {mount.target}: {error}"
        return ""

    def _make_mount_point(self, mount: Mounted) -> None:
        target = Path(mount.target)
        if not self._private_mounts:
            _link(mount.source, target)
        elif self._mount_points[mount.target] or not target.exists():
            self._mount_points[mount.target] += 1
            target.parent.mkdir(parents=True, exist_ok=True)
            target.mkdir(exist_ok=True) if mount.source.is_dir() else target.touch()

    def _remove_mount_points(self, job_id: str) -> None:
        """What was made for it, where no other job needs it: a mount goes with the directory it is on."""
        with self._lock:
            for mount in reversed(self._mounts_of.pop(job_id, ())):
                target = Path(mount.target)
                if self._private_mounts and self._mount_points[mount.target]:
                    self._mount_points[mount.target] -= 1
                    if not self._mount_points[mount.target]:
                        with suppress(OSError):
                            target.rmdir() if target.is_dir() else target.unlink()
                elif target.is_symlink() and target.readlink() == mount.source:
                    target.unlink()

    def _ended(self, job_id: str, report: Report) -> Report:
        if keeper := self._keepers.get(job_id):
            keeper.poll()
        self._remove_mount_points(job_id)
        return report

    def _signal(self, job_id: str, number: signal.Signals) -> None:
        if self._is_kept(job_id):
            with suppress(ProcessLookupError):
                os.kill(self._keeper_pid(job_id)[0], number)

    def _is_kept(self, job_id: str) -> bool:
        if keeper := self._keepers.get(job_id):
            return keeper.poll() is None
        pid, started = self._keeper_pid(job_id)
        return pid > 0 and _start_time(pid) == started

    def _keeper_pid(self, job_id: str) -> tuple[int, str]:
        try:
            pid, started = (self._place(job_id) / "keeper.pid").read_text().split()
        except (OSError, ValueError):
            return 0, ""
        return int(pid), started

    def _told(self, job_id: str) -> dict[str, Any] | None:
        try:
            document: dict[str, Any] = json.loads((self._place(job_id) / "status.json").read_text())
        except OSError:
            return None
        return document

    def _tell(self, job_id: str, document: dict[str, Any]) -> None:
        (self._place(job_id) / "status.json").write_text(json.dumps(document))

    def _place(self, job_id: str) -> Path:
        return self._directory / job_id


def can_mount() -> bool:
    """Whether a process may have mounts of its own here."""
    attempt = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x00020000))"
    return subprocess.run([sys.executable, "-I", "-S", "-c", attempt], check=False).returncode == 0


def _judged(told: dict[str, Any]) -> Report:
    if "problem" in told:
        return Report(Phase.ENDED, problem=told["problem"])
    status = told["wait_status"]
    code = os.waitstatus_to_exitcode(status)
    return Report(Phase.ENDED, exit_code=code if code >= 0 else 128 - code, out_of_memory=told["out_of_memory"])


def _lost(place: Path) -> Report:
    said = ""
    with suppress(OSError):
        said = (place / "keeper.log").read_text(errors="replace")[-500:]
    return Report(Phase.ENDED, problem=f"its keeper is gone{': ' + said if said else ''}")


def _link(source: Path, target: Path) -> None:
    if target.is_symlink() and target.readlink() == source:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)


def _start_time(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
