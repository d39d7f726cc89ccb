"""Copies of checkpoints at a URL: made beside the training, and gone on from where the run's own are lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance.bucket import Bucket, serve_bucket
from conformance.tiny_jobs import make_cache, make_conversations, make_job, make_model, metrics_of, model_bytes
from tunewright.contracts.errors import CheckpointCorrupted, IntegrityError, Unavailable
from tunewright.trainer.checkpoints import copies
from tunewright.trainer.node import run_node

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    monkeypatch.setattr(copies, "RETRY_SECONDS", (0.01, 0.01))
    (tmp_path / "storage" / "bucket").mkdir(parents=True)
    with serve_bucket(tmp_path / "storage") as bucket:
        yield bucket


def make(root: Path, run: str = "run", **checkpoint: Any) -> Path:
    model = make_model(root / "model", attention_dropout=0.2)
    if not (root / "cache").is_dir():
        make_cache(root / "cache", make_conversations(24))
    settings = {"every_steps": 3, "copy_to": "s3://bucket/copies/", **checkpoint}
    return make_job(root, model, next((root / "cache").iterdir()), run=run, max_steps=9, checkpoint=settings)


def copies_of(bucket: Bucket, run: str = "run") -> list[str]:
    return sorted(path.parent.name for path in bucket.directory.glob(f"bucket/copies/{run}/*/checkpoint.json"))


def lose_from(job: Path) -> None:
    """Lose all that the run has written."""
    for name in ("checkpoints", "model"):
        shutil.rmtree(job.parent / name)
    for name in ("metrics.jsonl", "training.json", "provenance.json"):
        (job.parent / name).unlink()


def summary_of(job: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((job.parent / "training.json").read_text())
    return found


def test_a_run_that_lost_its_directory_goes_on_from_the_newest_good_copy(
    tmp_path: Path, bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make(tmp_path)
    assert run_node(job) == 0
    written, losses = model_bytes(job), [line["loss"] for line in metrics_of(job)]
    assert copies_of(bucket) == ["step-000006", "step-000009"], "old copies go as old checkpoints do"
    assert len(list(bucket.directory.glob("bucket/copies/run/*"))) <= 3
    own = job.parent / "checkpoints" / "step-000009"
    for path in (bucket.directory / "bucket/copies/run/step-000009").iterdir():
        assert path.read_bytes() == (own / path.name).read_bytes()
    puts = [request.split("/")[-1] for request in bucket.asked if request.startswith("PUT") and "000009" in request]
    assert puts[-1] == "checkpoint.json", "a copy without its record must be none"
    expected = {"url": "s3://bucket/copies/run", "newest": "step-000009", "failed": {}}
    assert json.loads((job.parent / "provenance.json").read_text())["metrics"]["checkpoint_copies"] == expected

    lose_from(job)
    newest = bucket.directory / "bucket/copies/run/step-000009/common.pt"
    newest.write_bytes(newest.read_bytes()[:-7])
    capsys.readouterr()
    assert run_node(job) == 0
    said = capsys.readouterr().err
    assert "s3://bucket/copies/run/step-000009/common.pt: has" in said
    assert "checkpoint step-000006: copying it from s3://bucket/copies/run" in said
    assert summary_of(job)["resumed_from_step"] == 6
    assert model_bytes(job) == written
    assert [line["loss"] for line in metrics_of(job)] == losses[6:]
    assert newest.read_bytes() == (own / "common.pt").read_bytes(), "the copy that was damaged is made anew"

    asked = len(bucket.asked)
    shutil.rmtree(job.parent / "model")
    assert run_node(job) == 0
    assert not any("trained" in request for request in bucket.asked[asked:]), "a run that has its own fetches none"


def test_copies_that_are_all_damaged_are_not_a_reason_to_start_from_nothing(tmp_path: Path, bucket: Bucket) -> None:
    job = make(tmp_path, keep_last=1)
    assert run_node(job) == 0
    lose_from(job)
    record = bucket.directory / "bucket/copies/run/step-000009/checkpoint.json"
    good = record.read_bytes()
    record.write_bytes(good.replace(b"common.pt", b"../com.pt"))
    with pytest.raises(CheckpointCorrupted, match="names a file outside of it") as caught:
        run_node(job)
    assert caught.value.exit_code == 65
    assert not (job.parent / "metrics.jsonl").exists()

    record.write_bytes(good.replace(b'"continuation_digest": "', b'"continuation_digest": "0'))
    with pytest.raises(IntegrityError, match="is of another experiment"):
        run_node(job)


def test_a_storage_that_cannot_be_asked_ends_a_run_that_has_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(Unavailable, match=r"s3://bucket/copies/run: "):
        run_node(make(tmp_path))


def test_a_copy_that_fails_is_told_and_training_goes_on(
    tmp_path: Path, bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make(tmp_path, every_steps=9)
    bucket.refusals = 1000
    assert run_node(job) == 0
    said = capsys.readouterr().err
    assert "warning: step-000009 could not be copied to s3://bucket/copies/run: " in said
    assert "training goes on" in said
    found = summary_of(job)["checkpoint_copies"]
    assert found["newest"] is None
    assert list(found["failed"]) == ["step-000009"]
    assert copies_of(bucket) == []

    shutil.rmtree(job.parent / "model")
    bucket.refusals = 2  # it is tried again
    assert run_node(job) == 0
    assert summary_of(job)["checkpoint_copies"] == {
        "url": "s3://bucket/copies/run", "newest": "step-000009", "failed": {}
    }  # fmt: skip
    assert copies_of(bucket) == ["step-000009"]
