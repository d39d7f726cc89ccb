"""What a handle of ours keeps, so that nobody has to be asked for it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from tunewright.contracts.jobs import JobHandle


@dataclass(frozen=True)
class Place:
    """Where an experiment and its run are."""

    run_dir: str
    nodes: int
    workspace_id: str
    created_at: str
    """ISO 8601."""

    url: str

    def to_handle(self, experiment_id: str) -> JobHandle:
        """The handle of the experiment."""
        return JobHandle(cluster="beaker", native_id=experiment_id, data=json.dumps(asdict(self), sort_keys=True))


def place_of(handle: JobHandle) -> Place | None:
    """What a handle keeps. None for one that is not of our making."""
    try:
        return Place(**json.loads(handle.data))
    except (ValueError, TypeError):
        return None
