"""Metrics beside `metrics.jsonl`: the real trackers, and what happens where they fail."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.trainer_tracking.mlflow_server import mlflow_server
from conformance.tiny_jobs import make_cache, make_conversations, make_job, make_model, metrics_of, model_bytes
from tunewright.contracts.environments import EnvironmentRef
from tunewright.contracts.errors import InvalidExperiment, Unavailable
from tunewright.contracts.files import write_json_atomically
from tunewright.trainer.job import open_job, read_job
from tunewright.trainer.tracking.tracker import flat, numbers_of
from tunewright.trainer.training import run_training

pytestmark = pytest.mark.timeout(300)

ENVIRONMENT = EnvironmentRef(kind="pex", key="k" * 64, reference="/env.pex", command=("env",), sha256="e" * 64)


def make(root: Path, *trackers: str, run: str = "run", **tracking: Any) -> Path:
    """A job with an environment's digest that `trackers` follow."""
    if not (root / "cache").is_dir():
        make_cache(root / "cache", make_conversations(8))
    job = make_job(
        root, make_model(root / "model"), next((root / "cache").iterdir()), run=run, max_steps=4,
        checkpoint={"every_steps": 2}, tables={"tracking": {"to": trackers, **tracking}},
    )  # fmt: skip
    document = read_job(job).model_copy(update={"environment": ENVIRONMENT})
    write_json_atomically(job, document.to_document())
    return job


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow server for all tests of this module."""
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as address:
        yield address


@pytest.fixture
def tracked(server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow's client of that server, which the job is told of."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    mlflow.set_tracking_uri(server)
    return mlflow.MlflowClient()


def test_mlflow_shows_the_run_its_metrics_and_a_version_of_the_model_with_the_environments_digest(
    tmp_path: Path, tracked: Any
) -> None:
    job = make(tmp_path, "mlflow", project="project-a", registered_model="quickstart")
    run_training(open_job(job))
    (version,) = tracked.search_model_versions("name = 'quickstart'")
    assert version.tags["tunewright.environment_digest"] == "e" * 64
    assert version.tags["tunewright.dataset_digest"] == read_job(job).dataset.digest  # type: ignore[union-attr]
    run = tracked.get_run(version.run_id)
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"
    assert run.data.params["training.max_steps"] == "4"
    assert run.data.params["environment_digest"] == "e" * 64
    losses = [(one.step, one.value) for one in tracked.get_metric_history(version.run_id, "loss")]
    assert losses == [(line["step"], line["loss"]) for line in metrics_of(job)]
    fetched = tracked.download_artifacts(version.run_id, "model", str(tmp_path))
    assert {p.name: p.read_bytes() for p in Path(fetched).glob("*.safetensors")} == model_bytes(job)
    record = json.loads((job.parent / "provenance.json").read_text())
    assert record["published"]["mlflow_run_id"] == version.run_id
    assert record["published"]["registered_version"] == version.version


def test_a_run_that_goes_on_goes_on_in_the_same_mlflow_run(tmp_path: Path, tracked: Any) -> None:
    job = make(tmp_path, "mlflow", project="project-b")
    run_training(open_job(job))
    (job.parent / "provenance.json").unlink()
    run_training(open_job(job))
    (experiment,) = tracked.search_experiments(filter_string="name = 'project-b'")
    (run,) = tracked.search_runs([experiment.experiment_id])
    assert len(tracked.get_metric_history(run.info.run_id, "loss")) == 4


def test_mlflow_that_is_told_nowhere_to_go_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    job = make(tmp_path, "mlflow")
    with pytest.raises(InvalidExperiment, match="MLFLOW_TRACKING_URI"):
        run_training(open_job(job))
    assert not (job.parent / "metrics.jsonl").exists()


def test_a_server_that_does_not_answer_ends_the_run_with_69_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    job = make(tmp_path, "mlflow")
    with pytest.raises(Unavailable, match="`mlflow` cannot be started") as caught:
        run_training(open_job(job))
    assert caught.value.exit_code == 69
    assert not (job.parent / "metrics.jsonl").exists()


def test_tensorboard_finds_every_step_of_the_run(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    job = make(tmp_path, "tensorboard")
    run_training(open_job(job))
    events = EventAccumulator(str(job.parent / "tracking" / "tensorboard"))
    events.Reload()
    found = [(one.step, one.value) for one in events.Scalars("loss")]
    assert found == [(line["step"], pytest.approx(line["loss"])) for line in metrics_of(job)]
    assert "experiment/text_summary" in events.Tags()["tensors"]


def test_wandb_leaves_an_offline_run_that_can_be_sent_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    job = make(tmp_path, "wandb")
    run_training(open_job(job))
    (directory,) = (job.parent / "tracking" / "wandb").glob("offline-run-*")
    (log,) = directory.glob("run-*.wandb")
    content = log.read_bytes()
    assert b"grad_norm" in content
    assert log.name.startswith("run-run-")


def test_trackio_keeps_the_run_below_the_runs_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make(tmp_path, "trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run_training(open_job(job))
    assert any(path.stat().st_size for path in (tmp_path / "trackio").rglob("*.db"))


def test_a_tracker_that_fails_later_is_told_once_and_the_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from accelerate.tracking import TensorBoardTracker

    def fail(self: Any, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(TensorBoardTracker, "log", fail)
    job = make(tmp_path, "tensorboard")
    run_training(open_job(job))
    assert capsys.readouterr().err.count("`tensorboard` fails and is not complete: disk full") == 1
    assert len(metrics_of(job)) == 4


def test_nothing_leaves_the_machine_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make(tmp_path)
    run_training(open_job(job))
    assert not (job.parent / "tracking").exists()
    assert "WANDB_MODE" not in os.environ


def test_lines_become_numbers_with_dots_in_their_names() -> None:
    line = {"step": 3, "loss": 1.5, "grad_norm": None, "seconds": {"forward": 0.5}, "is_best": True}
    assert numbers_of(line) == {"loss": 1.5, "seconds.forward": 0.5}
    assert flat({"a": {"b": [1, {"c": 2}]}}) == {"a.b.0": 1, "a.b.1.c": 2}
