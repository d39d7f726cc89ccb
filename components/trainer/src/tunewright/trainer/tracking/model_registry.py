"""The final model as a version in MLflow's registry, with what it was made from beside the weights."""

from __future__ import annotations

from typing import Any

from tunewright.contracts.errors import Unavailable
from tunewright.trainer.job import TrainingJob
from tunewright.trainer.observers import Observer
from tunewright.trainer.tracking.opening import note_mlflow_run
from tunewright.trainer.tracking.tracker import Tracker, environment_digest

_ARTIFACT_PATH = "model"


class ModelRegistry(Observer):
    """Registers `model/` once it is whole. Unlike metrics, this was asked for by name: where it fails, the run fails.

    The run can be started again under its name: it trains nothing anew and registers.
    """

    def __init__(self, job: TrainingJob, tracker: Tracker) -> None:
        self._job, self._run_id = job, tracker.opened.tracker.info.run_id
        note_mlflow_run(job, self._run_id)

    def model_written(self) -> dict[str, Any]:
        """Upload the model to the run, and add a version to the registered model. Gives its name and version."""
        name = self._job.experiment.tracking.registered_model
        if name is None:
            return {"mlflow_run_id": self._run_id}
        try:
            version = self._register(name)
        except Exception as error:  # MLflow's client raises its own, requests' and the storage's
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            message = f"tracking.registered_model: `{name}` could not be registered: {reason}"
            raise Unavailable(message, "model/ is whole: launch the run again under its name to register it") from error
        return {"mlflow_run_id": self._run_id, "registered_model": name, "registered_version": version}

    def _register(self, name: str) -> str:
        from mlflow import MlflowClient

        client = MlflowClient()
        client.log_artifacts(self._run_id, str(self._job.run_dir.model), _ARTIFACT_PATH)
        if not client.search_registered_models(filter_string=f"name = '{name}'"):
            client.create_registered_model(name)
        source = f"{client.get_run(self._run_id).info.artifact_uri}/{_ARTIFACT_PATH}"
        version = client.create_model_version(name, source, self._run_id, tags=tags_of(self._job))
        return str(version.version)


def tags_of(job: TrainingJob) -> dict[str, str]:
    """What a version is traced by."""
    assert job.job.dataset is not None
    tags = {
        "environment_digest": environment_digest(job),
        "dataset_digest": job.job.dataset.digest,
        "experiment_digest": job.experiment_digest,
        "commit": job.job.origin.code.commit if job.job.origin else None,
        "run": job.job.run,
        "variant": job.variant.name,
    }
    return {f"tunewright.{name}": value for name, value in tags.items() if value is not None}
