"""Cluster `beaker`: plans without its client, and does the rest through it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tunewright.clusters.beaker.handles import Place, place_of
from tunewright.clusters.beaker.options import BeakerOptions
from tunewright.clusters.beaker.plan import plan_experiment
from tunewright.contracts.errors import InvalidExperiment, SubmissionRefused, Unavailable
from tunewright.contracts.jobs import JobHandle, JobSpec, SubmissionPlan
from tunewright.contracts.preflight import Finding
from tunewright.contracts.spec import Spec
from tunewright.contracts.status import JobState, JobStatus

if TYPE_CHECKING:
    from beaker import beaker_pb2 as pb2
    from tunewright.clusters.beaker.service import Service

_FOLLOW_PAUSE_SECONDS = 0.3
_STATUS_EVERY_SECONDS = 1.0
_SEEN_WITHIN_SECONDS = 15.0
_PIECE_BYTES = 1 << 16
_LOGIN = "`beaker account login` writes it, or set BEAKER_TOKEN"


class BeakerCluster:
    """See `tunewright.contracts.clusters.Cluster` for what each verb promises."""

    def __init__(self) -> None:
        self._ended: dict[JobHandle, JobStatus] = {}
        self._service: Service | None = None
        self.seen_within_seconds = _SEEN_WITHIN_SECONDS
        """After so long a running job's log is here, or this machine does not see what the nodes write."""

    @contextmanager
    def _connected(self) -> Iterator[Service]:
        """Beaker, connected to once for a command, its errors in our words."""
        from tunewright.clusters.beaker.service import errors_in_words, open_service

        with errors_in_words():
            if self._service is None:
                self._service = open_service()
            yield self._service

    def check(self) -> Sequence[Finding]:
        """Whether Beaker's client is installed, and has a token. Nobody is asked whether it is still good."""
        if find_spec("beaker") is None:
            hint = "pip install beaker-py"
            return (Finding(code="beaker-client-missing", message="Beaker's client is not installed", hint=hint),)
        if os.environ.get("BEAKER_TOKEN"):
            return ()
        path = Path(os.environ.get("BEAKER_CONFIG") or Path.home() / ".beaker" / "config.yml")
        try:
            text = path.read_text()
        except OSError as error:
            message = f"there is no configuration of Beaker at {path} (BEAKER_CONFIG): {error.strerror}"
            return (Finding(code="beaker-config-missing", message=message, hint=_LOGIN),)
        if not re.search(r"^user_token:\s*['\"]?[^\s'\"#]", text, re.MULTILINE):
            return (Finding(code="beaker-token-missing", message=f"{path} has no `user_token`", hint=_LOGIN),)
        return ()

    def plan(self, job: JobSpec, options: Spec) -> SubmissionPlan:
        """The experiment's spec, and what no spec has a place for."""
        assert isinstance(options, BeakerOptions)
        return plan_experiment(job, options)

    def submit(self, plan: SubmissionPlan, key: str) -> JobHandle:
        """Make the experiment, or find the one that `key` has. Its image is sent before where Beaker has it not."""
        from tunewright.clusters.beaker.submission import submit_plan

        with self._connected() as service:
            return submit_plan(service, plan, key)

    def status(self, handles: Sequence[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        """One listing for all experiments, and a call for each node of those that have begun.

        What has ended is asked for once.
        """
        open_handles = [handle for handle in handles if handle not in self._ended]
        found = self._ask(open_handles) if open_handles else {}
        for handle, status in found.items():
            if status.state.is_terminal and status.state is not JobState.NOT_FOUND:
                self._ended[handle] = status
        return {handle: self._ended.get(handle) or found[handle] for handle in handles}

    def _ask(self, handles: Sequence[JobHandle]) -> dict[JobHandle, JobStatus]:
        from tunewright.clusters.beaker.service import in_parallel

        try:
            with self._connected() as service:
                workloads = _workloads(service, handles)
                asked = [partial(_status, service, handle, workloads[handle]) for handle in handles]
                return dict(zip(handles, in_parallel(asked), strict=True))
        except (Unavailable, SubmissionRefused) as error:
            return dict.fromkeys(handles, JobStatus(state=JobState.UNKNOWN, message=error.message))

    def logs(self, handle: JobHandle, replica: int = 0, follow: bool = False, since: int = 0) -> Iterator[bytes]:
        """What node `replica` wrote, over all attempts: from the run's directory, which has the exact bytes.

        Where this machine does not see what the nodes write, Beaker's own lines, each with a newline.
        """
        place = place_of(handle)
        if place is None:
            return iter(())
        if not 0 <= replica < place.nodes:
            allowed = "only 0 is allowed" if place.nodes == 1 else f"0 to {place.nodes - 1} are allowed"
            raise InvalidExperiment(f"--replica {replica}: the job has {place.nodes} node(s); {allowed}")
        return self._pieces(handle, place, replica, follow, since)

    def _pieces(self, handle: JobHandle, place: Place, replica: int, follow: bool, since: int) -> Iterator[bytes]:
        path = Path(place.run_dir) / "logs" / f"replica-{replica}.log"
        offset, state, asked_at, running_since = since, JobState.PENDING, 0.0, None
        while True:
            # Asked before reading: what was written before the end is read after it was known.
            if follow and time.monotonic() - asked_at > _STATUS_EVERY_SECONDS:
                state, asked_at = self.status([handle])[handle].state, time.monotonic()
            for piece in _bytes_from(path, offset):
                offset += len(piece)
                yield piece
            if state is JobState.RUNNING:
                running_since = running_since or time.monotonic()
            is_unseen = running_since is not None and time.monotonic() - running_since > self.seen_within_seconds
            if not follow or state.is_terminal or (is_unseen and not path.exists()):
                break
            time.sleep(_FOLLOW_PAUSE_SECONDS)
        if not path.exists():
            with self._connected() as service:
                yield from _beakers_lines(service, handle, replica, follow, offset)

    def stop(self, handle: JobHandle) -> None:
        """Cancel the experiment."""
        if handle not in self._ended:
            with self._connected() as service:
                service.cancel(handle.native_id)

    def url(self, handle: JobHandle) -> str | None:
        """The experiment's page."""
        place = place_of(handle)
        return place.url if place else None


def _workloads(service: Service, handles: Sequence[JobHandle]) -> dict[JobHandle, pb2.Workload | None]:
    """The experiments: one by its id, several by a listing of each workspace they are in."""
    places = {handle: place_of(handle) for handle in handles}
    listed: dict[str, pb2.Workload] = {}
    if len(handles) > 1:
        for workspace_id in sorted({place.workspace_id for place in places.values() if place}):
            since = min(place.created_at for place in places.values() if place and place.workspace_id == workspace_id)
            listed |= service.workloads_since(workspace_id, datetime.fromisoformat(since))
    return {handle: listed.get(handle.native_id) or service.workload(handle.native_id) for handle in handles}


def _status(service: Service, handle: JobHandle, workload: pb2.Workload | None) -> JobStatus:
    from tunewright.clusters.beaker.reading import read_status

    if workload is None or not workload.HasField("experiment"):
        return JobStatus(state=JobState.NOT_FOUND, message=f"Beaker has no experiment `{handle.native_id}`")
    return read_status(service, workload, place_of(handle))


def _bytes_from(path: Path, offset: int) -> Iterator[bytes]:
    try:
        file = path.open("rb")
    except OSError:
        return
    with file:
        file.seek(offset)
        while piece := os.read(file.fileno(), _PIECE_BYTES):
            yield piece


def _beakers_lines(service: Service, handle: JobHandle, replica: int, follow: bool, since: int) -> Iterator[bytes]:
    """Beaker's log of a node, from byte `since` of all its lines on. With `follow` to the experiment's end."""
    from tunewright.clusters.beaker.reading import lines_of_node

    passed = 0
    for line in lines_of_node(service, handle.native_id, replica, follow):
        rest = line[max(0, since - passed) :]
        passed += len(line)
        if rest:
            yield rest
