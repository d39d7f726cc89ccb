"""Where a job is: what its handle says, in a form that two submissions of one key share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tunewright.contracts.jobs import JobHandle


@dataclass(frozen=True)
class Server:
    """An API server and a namespace of it: what one call can ask for."""

    kubeconfig: str | None
    context: str | None
    namespace: str


@dataclass(frozen=True)
class Place:
    """A job's object, and where its pods write."""

    server: Server
    render: str
    name: str
    nodes: int
    run_dir: str

    def to_handle(self) -> JobHandle:
        """The handle that `from_handle` reads."""
        native_id = f"{self.server.namespace}/{self.render}/{self.name}"
        return JobHandle(cluster="kubernetes", native_id=native_id, data=json.dumps(asdict(self)))


def from_handle(handle: JobHandle) -> Place | None:
    """The place of a handle, or None where it is of no job of ours."""
    try:
        data: Mapping[str, Any] = json.loads(handle.data)
        return Place(Server(**data["server"]), **{name: data[name] for name in ("render", "name", "nodes", "run_dir")})
    except (ValueError, KeyError, TypeError):
        return None
