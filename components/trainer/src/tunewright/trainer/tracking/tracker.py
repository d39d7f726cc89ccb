"""One tracker as an observer of the training: it may fail, the training may not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from tunewright.trainer.job import TrainingJob
from tunewright.trainer.observers import Observer


class Tracker(Observer):
    """Passes metrics on to one of Accelerate's trackers. What fails is told once, and the training goes on."""

    def __init__(self, name: str, opened: Any, job: TrainingJob) -> None:
        self.name, self.opened, self._job = name, opened, job
        self._has_complained = False

    def started(self, step: int) -> None:
        """The configuration, once."""
        self.attempt(self._store_configuration)

    def logged(self, line: dict[str, Any]) -> None:
        """The line's numbers."""
        # MLflow's client would otherwise wait for its server in every step.
        arguments = {"synchronous": False} if self.name == "mlflow" else {}
        self.attempt(lambda: self.opened.log(numbers_of(line), step=line["step"], **arguments))

    def closed(self) -> None:
        """All that is under way arrives, then the tracker's run ends."""
        if self.name == "mlflow":
            import mlflow

            self.attempt(mlflow.flush_async_logging)
        self.attempt(self.opened.finish)
        if self.name == "wandb":
            import wandb

            self.attempt(wandb.teardown)  # its service writes on for a moment after an offline run is finished

    def attempt(self, act: Callable[[], Any]) -> Any:
        """What `act` gives; None, and one line on stderr, where it fails."""
        try:
            return act()
        except Exception as error:
            if not self._has_complained:
                reason = str(error).strip().split("\n")[0] or type(error).__name__
                print(f"tracking: `{self.name}` fails and is not complete: {reason}", file=sys.stderr, flush=True)
            self._has_complained = True
            return None

    def _store_configuration(self) -> None:
        values = configuration_of(self._job)
        if self.name == "tensorboard":  # its own way writes a directory named after the time
            text = "\n".join(f"    {name} = {value}" for name, value in values.items())
            self.opened.tracker.add_text("experiment", text)
            return
        self.opened.store_init_configuration(values)


def configuration_of(job: TrainingJob) -> dict[str, Any]:
    """The resolved experiment with dots in its keys, and the digests that say what exactly was trained on what."""
    assert job.job.dataset is not None
    known = {
        "run": job.job.run,
        "experiment_digest": job.experiment_digest,
        "dataset_digest": job.job.dataset.digest,
        "environment_digest": environment_digest(job),
        "commit": job.job.origin.code.commit if job.job.origin else None,
    }
    # Where the job runs may name what only its cluster should know; variables are left out with the rest of it.
    document = {name: value for name, value in job.experiment.to_document().items() if name != "cluster"}
    return {name: value for name, value in {**flat(document), **known}.items() if value is not None}


def environment_digest(job: TrainingJob) -> str | None:
    """What identifies the environment: an image's digest, or a PEX's SHA-256."""
    return job.job.environment.sha256 if job.job.environment else None


def flat(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables and lists as one, keys joined by dots."""
    found: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            found |= flat({str(index): one for index, one in enumerate(value)}, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def numbers_of(line: dict[str, Any]) -> dict[str, float]:
    """The numbers of a line of metrics but its step."""
    return {
        name: value
        for name, value in flat(line).items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "step"
    }
