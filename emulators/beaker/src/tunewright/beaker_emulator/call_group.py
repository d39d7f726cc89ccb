"""What every group of calls has in common."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from beaker import beaker_pb2 as pb2
from google.protobuf.message import Message  # pants: no-infer-dep

from tunewright.beaker_emulator.launches import Runner
from tunewright.beaker_emulator.lifecycle import Lifecycle
from tunewright.beaker_emulator.listing import Pages
from tunewright.beaker_emulator.organization import Organization
from tunewright.beaker_emulator.scheduler import Scheduler
from tunewright.beaker_emulator.store import Store

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Office:
    """What calls work on."""

    store: Store
    organization: Organization
    lifecycle: Lifecycle
    scheduler: Scheduler
    runner: Runner
    pages: Pages = field(default_factory=Pages)


class CallGroup:
    """Calls of Beaker's, each a method of the same name. `user`: whose token came with it."""

    def __init__(self, office: Office) -> None:
        self._store = office.store
        self._organization = office.organization
        self._lifecycle = office.lifecycle
        self._scheduler = office.scheduler
        self._runner = office.runner
        self._pages = office.pages

    def _in_organization(self, opts: Any, rows: Iterable[M]) -> Iterable[M]:
        self._organization.check_organization(opts.organization_id)
        return rows

    def _writable_workspace(self, workspace_id: str, user: pb2.User) -> pb2.Workspace:
        workspace = self._store.workspaces.get(workspace_id)
        self._organization.check_writer(user, workspace)
        return workspace

    def _writable_experiment(self, workload_id: str, user: pb2.User) -> pb2.Experiment:
        experiment = self._store.experiments.get(workload_id)
        self._writable_workspace(experiment.workspace_id, user)
        return experiment
