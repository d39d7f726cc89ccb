"""Several runs that belong together, a sweep's or a pipeline's: what is kept of them, and which may start. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tunewright.contracts.errors import IntegrityError
from tunewright.contracts.files import write_json_atomically
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.status import CauseKind, JobState, JobStatus

Kind = Literal["sweep", "pipeline"]
KINDS: tuple[Kind, ...] = ("sweep", "pipeline")


@dataclass(frozen=True)
class Member:
    """One run of a batch."""

    run: str
    """Its name."""

    after: tuple[str, ...] = ()
    """The runs of the batch that must have succeeded before it starts."""

    point: Mapping[str, Any] = field(default_factory=dict)
    """In a sweep: the values it has of the grid, by their paths."""

    stage: str | None = None
    """In a pipeline: the stage it is of."""

    @property
    def label(self) -> str:
        """What sets it apart from the others, for people."""
        return self.stage or ", ".join(f"{path}={text}" for path, text in self.point.items())


@dataclass(frozen=True)
class Batch:
    """A sweep or a pipeline, as its document says: `sweeps/<name>/sweep.json`, `pipelines/<name>/pipeline.json`."""

    kind: Kind
    name: str
    home: Path
    """`$TUNEWRIGHT_HOME`."""

    members: tuple[Member, ...]
    """In the order of the grid, or of the file."""

    at_most: int | None = None
    """How many may run at a time; None: all."""

    grid: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Of a sweep: each path with its values, as they were written."""

    @property
    def directory(self) -> Path:
        """Where its document is, and what its waiter leaves."""
        return directory_of(self.home, self.kind, self.name)

    def run_dir(self, run: str) -> RunDir:
        """The directory of one of its runs."""
        return RunDir.of(self.home, run)

    def write(self) -> None:
        """Put its document in place, whole."""
        self.directory.mkdir(parents=True, exist_ok=True)
        write_json_atomically(self.directory / f"{self.kind}.json", self.to_document())

    def to_document(self) -> dict[str, Any]:
        """What `sweep.json` or `pipeline.json` holds."""
        document: dict[str, Any] = {"schema": 1, self.kind: self.name, "at_most": self.at_most}
        if self.kind == "sweep":
            document["grid"] = [{"path": path, "values": list(values)} for path, values in self.grid]
        return {**document, "runs": [_member_document(member) for member in self.members]}


def _member_document(member: Member) -> dict[str, Any]:
    if member.stage is not None:
        return {"run": member.run, "stage": member.stage, "after": list(member.after)}
    return {"run": member.run, "point": dict(member.point)}


def directory_of(home: Path, kind: Kind, name: str) -> Path:
    """`sweeps/<name>` or `pipelines/<name>` of the home; it need not exist."""
    return home / f"{kind}s" / name


def read_batch(home: Path, kind: Kind, name: str) -> Batch | None:
    """The batch called `name`, or None where there is none. Raises IntegrityError where its document is broken."""
    path = directory_of(home, kind, name) / f"{kind}.json"
    try:
        document = json.loads(path.read_bytes())
        members = tuple(
            Member(one["run"], tuple(one.get("after", ())), one.get("point", {}), one.get("stage"))
            for one in document["runs"]
        )
        grid = tuple((axis["path"], tuple(axis["values"])) for axis in document.get("grid", ()))
        return Batch(kind, name, home, members, document["at_most"], grid)
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IntegrityError(f"{path}: is not a {kind}: {type(error).__name__}: {error}") from None


def find_batch(home: Path, name: str) -> Batch | None:
    """The sweep or the pipeline called `name`, or None. A run of that name comes first, and so hides it."""
    if not name or "/" in name or name.startswith(".") or RunDir.of(home, name).job.is_file():
        return None
    return next((found for kind in KINDS if (found := read_batch(home, kind, name)) is not None), None)


def batch_names(home: Path) -> list[str]:
    """The names of all sweeps and pipelines, sorted."""
    return sorted(path.parent.name for kind in KINDS for path in home.glob(f"{kind}s/*/{kind}.json"))


@dataclass(frozen=True)
class Decision:
    """What is to be done for a batch just now."""

    start: tuple[str, ...] = ()
    """The runs to start."""

    blocked: Mapping[str, str] = field(default_factory=dict)
    """The runs that can never start, each with the run that has not succeeded before it."""


def decide(
    members: Sequence[Member], statuses: Mapping[str, JobStatus], sent: frozenset[str], at_most: int | None
) -> Decision:
    """Which runs start now. `sent`: those that the cluster has, or had. Of `statuses` each run has one."""
    active = sum(1 for member in members if member.run in sent and not statuses[member.run].state.is_terminal)
    room = len(members) if at_most is None else max(0, at_most - active)
    start: list[str] = []
    blocked: dict[str, str] = {}
    for member in members:
        if member.run in sent or statuses[member.run].state.is_terminal:
            continue
        failed = [one for one in member.after if one in blocked or _has_failed(statuses[one])]
        if failed:
            blocked[member.run] = failed[0]
        elif all(statuses[one].state is JobState.SUCCEEDED for one in member.after) and len(start) < room:
            start.append(member.run)
    return Decision(tuple(start), blocked)


def _has_failed(status: JobStatus) -> bool:
    return status.state.is_terminal and status.state is not JobState.SUCCEEDED


def exit_code_of(members: Sequence[Member], statuses: Mapping[str, JobStatus]) -> int:
    """0 where all have succeeded, else the exit code of the first that has not, in the order of the batch.

    A run that never started because of another counts only where no other tells more.
    """
    failed = [statuses[member.run] for member in members if _has_failed(statuses[member.run])]
    own = [status for status in failed if status.cause is not CauseKind.DEPENDENCY]
    return (own or failed)[0].shell_exit_code if failed else 0
