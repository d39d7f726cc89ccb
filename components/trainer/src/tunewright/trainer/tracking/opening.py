"""Opening the trackers of an experiment, by Accelerate's classes for them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunewright.contracts.errors import InvalidExperiment, Problem, TunewrightError, Unavailable
from tunewright.contracts.files import write_json_atomically
from tunewright.trainer.job import TrainingJob
from tunewright.trainer.tracking.tracker import Tracker

_HINTS = {
    "mlflow": "is MLFLOW_TRACKING_URI right, and can this machine reach it?",
    "wandb": 'WANDB_API_KEY comes by [cluster.secrets]; or set WANDB_MODE = "offline" in [cluster.environment]',
}


def open_trackers(job: TrainingJob) -> list[Tracker]:
    """The trackers in `tracking.to`, ready to log; called on the main process, before the first step.

    Raises InvalidExperiment for one that is not installed or not told where to go, Unavailable for one that does not
    answer: a run that cannot be watched as asked ends before it costs anything.
    """
    return [_open(name, job) for name in job.experiment.tracking.to]


def _open(name: str, job: TrainingJob) -> Tracker:
    try:
        opened = _OPENERS[name](job)
        opened.main_process_only = False  # this is the main process; Accelerate's state may be another strategy's
        opened.start()
    except TunewrightError:
        raise
    except ImportError as error:
        raise _refused(name, f"`{name}` is not installed in the environment ({error.name or error})") from None
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise Unavailable(f"tracking.to: `{name}` cannot be started: {reason}", _HINTS.get(name, "")) from error
    return Tracker(name, opened, job)


def _refused(name: str, message: str, hint: str = "") -> InvalidExperiment:
    return InvalidExperiment.from_problems(f"tracker {name}", [Problem("tracking.to", message, hint)])


def tracking_directory(job: TrainingJob) -> Path:
    """`tracking/` of the run: what trackers keep on disk."""
    directory = job.run_dir.path / "tracking"
    directory.mkdir(exist_ok=True)
    return directory


def _open_tensorboard(job: TrainingJob) -> Any:
    from accelerate.tracking import TensorBoardTracker

    return TensorBoardTracker("tensorboard", tracking_directory(job))


def _open_wandb(job: TrainingJob) -> Any:
    import wandb
    from accelerate.tracking import WandBTracker

    return WandBTracker(
        job.experiment.tracking.project, name=job.job.run, id=_wandb_id(job), resume="allow",
        dir=str(tracking_directory(job)), settings=wandb.Settings(console="off", silent=True, save_code=False),
    )  # fmt: skip


def _wandb_id(job: TrainingJob) -> str:
    """The same for every attempt of the run, and of no other run of the project with its name."""
    started = job.job.origin.code.commit if job.job.origin else ""
    return f"{job.job.run}-{job.experiment_digest[:8]}{(started or '')[:4]}"


def _open_trackio(job: TrainingJob) -> Any:
    os.environ.setdefault("TRACKIO_DIR", str(tracking_directory(job) / "trackio"))  # read when it is imported
    import trackio  # noqa: F401  (an absent one is told apart from a failing one)
    from accelerate.tracking import TrackioTracker

    return TrackioTracker(job.experiment.tracking.project, name=job.job.run, resume="allow", embed=False)


def _open_mlflow(job: TrainingJob) -> Any:
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        hint = 'set it in [cluster.environment]: MLFLOW_TRACKING_URI = "http://mlflow.example.org"'
        raise _refused("mlflow", "`mlflow` needs MLFLOW_TRACKING_URI in the job's environment", hint)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # MLflow's own 7 wait for minutes
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import mlflow  # noqa: F401  (an absent one is told apart from a failing one)
    from accelerate.tracking import MLflowTracker

    return MLflowTracker(job.experiment.tracking.project, run_id=_known_mlflow_run(job), run_name=job.job.run)


def _known_mlflow_run(job: TrainingJob) -> str | None:
    """The id of the run that an earlier attempt started on the same server, if that server still has it."""
    import mlflow

    try:
        noted = json.loads((tracking_directory(job) / "mlflow.json").read_bytes())
        if noted["uri"] != mlflow.get_tracking_uri():
            return None
        mlflow.get_run(noted["run_id"])
    except (OSError, ValueError, KeyError, mlflow.exceptions.MlflowException):
        return None
    return str(noted["run_id"])


def note_mlflow_run(job: TrainingJob, run_id: str) -> None:
    """Keep the id for the next attempt."""
    import mlflow

    document = {"uri": mlflow.get_tracking_uri(), "run_id": run_id}
    write_json_atomically(tracking_directory(job) / "mlflow.json", document)


_OPENERS: dict[str, Callable[[TrainingJob], Any]] = {
    "mlflow": _open_mlflow,
    "tensorboard": _open_tensorboard,
    "wandb": _open_wandb,
    "trackio": _open_trackio,
}
