"""The gRPC service: each call of Beaker's that is emulated, found by the name it has there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beaker import beaker_pb2 as pb2

from tunewright.beaker_emulator.call_group import Office
from tunewright.beaker_emulator.fleet_calls import FleetCalls
from tunewright.beaker_emulator.job_calls import JobCalls
from tunewright.beaker_emulator.organization_calls import OrganizationCalls
from tunewright.beaker_emulator.refusals import NotEmulated
from tunewright.beaker_emulator.storage_calls import StorageCalls
from tunewright.beaker_emulator.workload_calls import WorkloadCalls

Call = Callable[[Any, pb2.User], Any]


class Calls:
    """All groups of calls."""

    def __init__(self, office: Office) -> None:
        groups = (OrganizationCalls, FleetCalls, WorkloadCalls, JobCalls, StorageCalls)
        self._groups = [group(office) for group in groups]

    def named(self, name: str) -> Call:
        """The call of this name; for one that is not emulated, a refusal that says so."""
        for group in self._groups:
            if hasattr(group, name):
                call: Call = getattr(group, name)
                return call

        def refuse(request: Any, user: pb2.User) -> Any:
            raise NotEmulated(f"the emulator does not have {name}")

        return refuse
