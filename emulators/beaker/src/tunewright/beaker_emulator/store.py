"""All that the server knows, in memory and in its state directory: one JSON file for each thing."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from beaker import beaker_pb2 as pb2
from google.protobuf import json_format  # pants: no-infer-dep
from google.protobuf.message import Message  # pants: no-infer-dep

from tunewright.beaker_emulator.refusals import NotFound

M = TypeVar("M", bound=Message)


class Table(Generic[M]):
    """Messages by their ids. Whoever changes one puts it back: `put` is what writes."""

    def __init__(self, directory: Path, kind: type[M], noun: str) -> None:
        self._directory = directory
        self._noun = noun
        self._rows: dict[str, M] = {}
        directory.mkdir(parents=True, exist_ok=True)
        for path in sorted(directory.glob("*.json")):
            self._rows[path.stem] = json_format.Parse(path.read_text(), kind())

    def __iter__(self) -> Iterator[M]:
        return iter(list(self._rows.values()))

    def __contains__(self, row_id: str) -> bool:
        return row_id in self._rows

    def get(self, row_id: str) -> M:
        """The one of this id. NotFound where there is none."""
        if row_id not in self._rows:
            raise NotFound(f"{self._noun} {row_id!r} not found")
        return self._rows[row_id]

    def find(self, matches: Callable[[M], bool]) -> M | None:
        """The first that matches."""
        return next(filter(matches, self), None)

    def put(self, row: M) -> M:
        """Keep it, and write it down."""
        row_id: str = row.id
        self._rows[row_id] = row
        write_file(self._directory / f"{row_id}.json", json_format.MessageToJson(row).encode())
        return row

    def delete(self, row_id: str) -> None:
        """Forget it."""
        self.get(row_id)
        del self._rows[row_id]
        (self._directory / f"{row_id}.json").unlink(missing_ok=True)


class JobTable(Table[pb2.Job]):
    """Jobs, found by their tasks and by whether they have ended."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, pb2.Job, "job")
        self._of_task: dict[str, list[pb2.Job]] = {}
        self._active: dict[str, pb2.Job] = {}
        for job in self:
            self._note(job)

    def put(self, row: pb2.Job) -> pb2.Job:
        """Keep it, and write it down."""
        self._note(super().put(row))
        return row

    def delete(self, row_id: str) -> None:
        """Forget it."""
        job = self.get(row_id)
        super().delete(row_id)
        self._of_task[job.task_id].remove(job)
        self._active.pop(row_id, None)

    def of_task(self, task_id: str) -> list[pb2.Job]:
        """Every job of a task, the first one first."""
        return list(self._of_task.get(task_id, ()))

    def active(self) -> list[pb2.Job]:
        """Those that have not ended, the oldest first."""
        return list(self._active.values())

    def _note(self, job: pb2.Job) -> None:
        jobs = self._of_task.setdefault(job.task_id, [])
        if all(other.id != job.id for other in jobs):
            jobs.append(job)
        if job.status.HasField("finalized"):
            self._active.pop(job.id, None)
        else:
            self._active[job.id] = job


class Notes:
    """Documents by keys, for what Beaker's messages have no field for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._rows: dict[str, Any] = {path.stem: json.loads(path.read_text()) for path in directory.glob("*.json")}

    def get(self, key: str, default: Any = None) -> Any:
        """The document of this key."""
        return self._rows.get(key, default)

    def put(self, key: str, document: Any) -> None:
        """Keep it, and write it down."""
        self._rows[key] = document
        write_file(self._directory / f"{key}.json", json.dumps(document).encode())

    def delete(self, key: str) -> None:
        """Forget it, where it is there."""
        self._rows.pop(key, None)
        (self._directory / f"{key}.json").unlink(missing_ok=True)


@dataclass
class Store:
    """Every table. `lock` is held by whoever reads more than one thing, or changes any."""

    directory: Path
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        base = self.directory
        self.workspaces = Table(base / "workspaces", pb2.Workspace, "workspace")
        self.images = Table(base / "images", pb2.Image, "image")
        self.datasets = Table(base / "datasets", pb2.Dataset, "dataset")
        self.groups = Table(base / "groups", pb2.Group, "group")
        self.experiments = Table(base / "experiments", pb2.Experiment, "workload")
        self.jobs = JobTable(base / "jobs")
        self.parsed_specs: dict[str, Any] = {}
        """Those of `specs` that have been read."""

        self.specs = Notes(base / "specs")
        """Of each experiment, as it was sent."""

        self.secrets = Notes(base / "secrets")
        """Of each workspace: name -> value and times. A server must know them; the directory is its owner's only."""

        self.members = Notes(base / "members")
        """Of each group: its experiments."""

        self.events = Notes(base / "events")
        """Of each job: what happened to it."""

    def dataset_files(self, dataset_id: str) -> Path:
        """Where the files of a dataset lie."""
        return self.directory / "dataset-files" / dataset_id

    def task(self, task_id: str) -> tuple[pb2.Experiment, pb2.Task]:
        """A task, and the experiment that it is part of."""
        for experiment in self.experiments:
            for task in experiment.tasks:
                if task.id == task_id:
                    return experiment, task
        raise NotFound(f"task {task_id!r} not found")

    def latest_job(self, task_id: str) -> pb2.Job | None:
        """The one that counts."""
        jobs = self.jobs.of_task(task_id)
        return jobs[-1] if jobs else None

    def forget_files(self, dataset_id: str) -> None:
        """The files of a dataset that is deleted."""
        shutil.rmtree(self.dataset_files(dataset_id), ignore_errors=True)


def write_file(path: Path, content: bytes) -> None:
    """All of it or nothing, even where the server is killed meanwhile."""
    new = path.with_name(f".{path.name}.{threading.get_ident()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    new.replace(path)
