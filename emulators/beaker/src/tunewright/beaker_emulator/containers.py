"""Runs jobs as containers of this machine's Docker, from images that its daemon has."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.beaker_emulator.launches import STOP_GRACE_SECONDS, Launch, Phase, Report
from tunewright.beaker_emulator.log_file import LogWriter

if TYPE_CHECKING:
    from docker.models.containers import Container

_LABEL = "tunewright.beaker-emulator"
_CALL_SECONDS = 60


class DockerMissing(Exception):
    """No daemon answers."""


class ContainerRunner:
    """One container for each job, named after it, and removed when its end was read."""

    def __init__(self, directory: Path, grace_seconds: float = STOP_GRACE_SECONDS) -> None:
        import docker
        from docker.errors import DockerException

        self._directory = directory
        self.grace_seconds = grace_seconds
        self._ended: dict[str, Report] = {}
        self._started: set[str] = set()
        self._readers: dict[str, threading.Thread] = {}
        try:
            self._client = docker.from_env(timeout=_CALL_SECONDS)
            self._client.ping()
        except DockerException as error:
            raise DockerMissing(f"no Docker daemon answers: {error}") from error

    def start(self, launch: Launch) -> None:
        """In the background: a container takes longer to start than others may wait."""
        self._started.add(launch.job_id)
        threading.Thread(target=self._run, args=(launch,), daemon=True).start()

    def report(self, job_id: str) -> Report:
        """From Docker; from the moment the container is removed, from what was read then."""
        if job_id in self._ended:
            return self._ended[job_id]
        container = self._container(job_id)
        if container is None:
            started_here = job_id in self._started
            return Report(Phase.STARTING) if started_here else Report(Phase.ENDED, problem="its container is gone")
        if job_id not in self._readers and job_id not in self._started:
            self._read_log(job_id, container)  # an earlier server started it
        return self._judged(job_id, container)

    def stop(self, job_id: str) -> None:
        """Docker's own stop, in the background."""
        self._in_background(job_id, lambda container: container.stop(timeout=int(self.grace_seconds)))

    def kill(self, job_id: str) -> None:
        """Docker's own kill."""
        self._in_background(job_id, lambda container: container.kill())

    def log_path(self, job_id: str) -> Path:
        """Written by a thread that follows the container's."""
        return self._directory / job_id / "log"

    def close(self) -> None:
        """Remove every container of this state directory."""
        for container in self._client.containers.list(all=True, filters={"label": f"{_LABEL}={self._directory}"}):
            with _suppressed():
                container.remove(force=True)
        self._client.close()

    def _run(self, launch: Launch) -> None:
        from docker.errors import DockerException

        try:
            container = self._client.containers.create(**self._options(launch))
            try:
                container.start()
            except DockerException:
                container.remove(force=True)
                raise
        except (DockerException, OSError) as error:
            explanation = getattr(error, "explanation", None) or error
            self._ended[launch.job_id] = Report(Phase.ENDED, problem=f"cannot start: {explanation}")
            return
        self._read_log(launch.job_id, container)

    def _options(self, launch: Launch) -> dict[str, Any]:
        from docker.types import Mount

        (self._directory / launch.job_id).mkdir(parents=True, exist_ok=True)
        mounts = [
            Mount(mount.target, str(mount.source), type="bind", read_only=mount.read_only) for mount in launch.mounts
        ]
        # As Beaker's spec has it: `command` replaces the image's entrypoint, `arguments` its command.
        options: dict[str, Any] = {
            "image": launch.image,
            "command": list(launch.arguments) or None,
            "entrypoint": list(launch.command) or None,
            "environment": dict(launch.environment),
            "mounts": mounts,
            "mem_limit": launch.memory_bytes,
            "memswap_limit": launch.memory_bytes,
            "shm_size": launch.shared_memory_bytes,
            "nano_cpus": None if launch.cpu_count is None else int(min(launch.cpu_count, os.cpu_count() or 1) * 1e9),
            "network_mode": "host" if launch.host_networking else None,
            "name": _name(launch.job_id),
            "labels": {_LABEL: str(self._directory)},
        }
        return {name: value for name, value in options.items() if value is not None}

    def _read_log(self, job_id: str, container: Container) -> None:
        path = self.log_path(job_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # of an earlier server, which Docker tells again from its start
        thread = threading.Thread(target=_follow, args=(container, path), daemon=True)
        self._readers[job_id] = thread
        thread.start()

    def _judged(self, job_id: str, container: Container) -> Report:
        state = container.attrs["State"]
        if state["Status"] not in ("exited", "dead"):
            running = state["Status"] == "running" and job_id in self._readers
            return Report(Phase.RUNNING if running else Phase.STARTING)
        reader = self._readers.get(job_id)
        if reader is None or reader.is_alive():
            return Report(Phase.RUNNING)  # its log is still coming
        code = int(state["ExitCode"])
        report = Report(Phase.ENDED, exit_code=code, out_of_memory=bool(state["OOMKilled"]) and code != 0)
        self._ended[job_id] = report
        with _suppressed():
            container.remove(force=True)
        return report

    def _container(self, job_id: str) -> Container | None:
        from docker.errors import NotFound

        try:
            return self._client.containers.get(_name(job_id))
        except NotFound:
            return None

    def _in_background(self, job_id: str, act: Any) -> None:
        def run() -> None:
            container = self._container(job_id)
            if container is not None:
                with _suppressed():
                    act(container)

        threading.Thread(target=run, daemon=True).start()


def _follow(container: Container, path: Path) -> None:
    writer = LogWriter(path)
    with _suppressed():
        for piece in container.logs(stream=True, follow=True, stdout=True, stderr=True):
            writer.write(piece)
    writer.close()


def _suppressed() -> contextlib.AbstractContextManager[None]:
    """What has gone meanwhile need not be stopped, killed, read or removed."""
    from docker.errors import DockerException

    return contextlib.suppress(DockerException)


def _name(job_id: str) -> str:
    return f"beaker-emulator-{job_id.lower()}"
