"""What watches a training: metrics files, trackers, publishers. Called on the main process alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunewright.contracts.checkpoints import CheckpointRef
from tunewright.contracts.provenance import ProvenanceRecord
from tunewright.trainer import log
from tunewright.trainer.job import TrainingJob
from tunewright.trainer.metrics import append_metrics


class Observer:
    """Does nothing at each event; subclasses override what they care about.

    An observer may raise: it ends the run unless it is one of those that must not (trackers catch their own).
    """

    def started(self, step: int) -> None:
        """The first step is next; `step` are done already, where the run goes on."""

    def logged(self, line: dict[str, Any]) -> None:
        """A line of metrics: `step` and `loss`, or `step` and `evaluation_loss`."""

    def checkpoint_saved(self, checkpoint: CheckpointRef) -> None:
        """A checkpoint is whole."""

    def model_written(self) -> dict[str, Any]:
        """`model/` is whole; the record is not written yet. What fails here fails the run.

        Gives what the record says of it: where the model went.
        """
        return {}

    def finished(self, record: ProvenanceRecord) -> None:
        """The record is written."""

    def closed(self) -> None:
        """The training is over, in whatever way. Called last, once."""


class MetricsFile(Observer):
    """`metrics.jsonl` and the log."""

    def __init__(self, job: TrainingJob) -> None:
        self._path = job.run_dir.metrics

    def logged(self, line: dict[str, Any]) -> None:
        """To the file, then in words."""
        append_metrics(self._path, line)
        log.say_metrics(line)


def open_observers(job: TrainingJob) -> Sequence[Observer]:
    """Everything that watches `job`. Raises what a tracker raises that cannot be started as it was asked for."""
    return (MetricsFile(job), *_open_tracking(job), *_open_publishing(job))


def _open_tracking(job: TrainingJob) -> list[Observer]:
    if not job.experiment.tracking.to:
        return []
    from tunewright.trainer.tracking.model_registry import ModelRegistry
    from tunewright.trainer.tracking.opening import open_trackers

    trackers = open_trackers(job)
    registries = [ModelRegistry(job, tracker) for tracker in trackers if tracker.name == "mlflow"]
    return [*registries, *trackers]


def _open_publishing(job: TrainingJob) -> list[Observer]:
    if job.experiment.publish is None or job.experiment.job == "evaluate":  # which leaves no model
        return []
    from tunewright.trainer.publishing.hub import HubPublisher

    return [HubPublisher(job, job.experiment.publish)]
