"""What a run leaves: every path, the record put together from them, and the records that vouch for files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tunewright.contracts.checkpoints import CheckpointManifest, verify_checkpoint
from tunewright.contracts.datasets import DatasetManifest, FileRecord, ShardRecord, read_manifest, verify_cache
from tunewright.contracts.errors import CacheCorrupted, CheckpointCorrupted, NotFound
from tunewright.contracts.files import sha256_of_file, write_json_atomically
from tunewright.contracts.provenance import ProvenanceRecord, compose_record, read_losses, write_record
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.spec import canonical_json, digest_of
from tunewright.contracts.status import JobState, JobStatus
from tunewright.contracts.timestamps import utc_now

NOW = "2026-11-21T06:08:38.123Z"
ENDED = JobStatus(state=JobState.SUCCEEDED, exit_code=0)

# ---- the run's directory


def test_the_run_directory_has_the_promised_names() -> None:
    run = RunDir.of(Path("/home"), "first")
    names = {
        name: getattr(run, name).relative_to("/home/runs/first").as_posix()
        for name, value in vars(RunDir).items()
        if isinstance(value, property) and name != "name"
    }
    assert run.name == "first"
    assert names == {
        "experiment": "experiment.toml", "resolved": "resolved.json", "patch": "dirty.patch",
        "preflight": "preflight.json", "environment": "environment.json", "dataset": "dataset.json", "job": "job.json",
        "plan": "plan", "submission": "submission.json", "handle": "handle.json", "events": "events.jsonl",
        "logs": "logs", "metrics": "metrics.jsonl", "checkpoints": "checkpoints", "model": "model",
        "training": "training.json", "provenance": "provenance.json", "evaluation_dataset": "evaluation_dataset.json",
            "estimate": "estimate.json", "reproduction": "reproduction.json", "evaluation": "evaluation.json",
            "evaluation_rows": "evaluation_rows.jsonl",
    }  # fmt: skip


# ---- the record


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir.of(tmp_path, "first")
    (made.model / "sub").mkdir(parents=True)
    (made.model / "model.safetensors").write_bytes(b"weights")
    (made.model / "sub" / "config.json").write_text("{}")
    (made.model / ".hidden.tmp").write_text("half")
    for step in (20, 10):
        checkpoint = made.checkpoints / f"step-{step:06}"
        checkpoint.mkdir(parents=True)
        write_json_atomically(checkpoint / "checkpoint.json", {"step": step})
    (made.checkpoints / "step-000030").mkdir()
    documents: dict[Path, Any] = {
        made.job: {
            "model": {"name_or_path": "m", "sha256": "s"}, "resources": {"nodes": 1},
            "origin": {"code": {"commit": "c", "dirty": False}, "user": "u", "host": "h", "plugins": {"p": "1"}},
        },
        made.environment: {"sha256": "pex", "lock_digest": "lock"},
        made.dataset: {"digest": "d", "rows": 3},
        made.resolved: {"seed": 17, "digest": "e"},
        made.handle: {"cluster": "local", "native_id": "4711"},
        made.training: {
            "python": "3.11.7", "packages": {"torch": "2"}, "seeds": {"weights": 17}, "determinism": {"flag": True},
            "hardware": {"cpu": "x"}, "plugins": {"v": "2"}, "steps": 30, "first_loss": 3.0, "last_loss": 1.0,
        },
    }  # fmt: skip
    for path, document in documents.items():
        write_json_atomically(path, document)
    return made


def test_the_record_answers_every_line_of_the_checklist(run: RunDir) -> None:
    record = compose_record(run, ENDED, NOW).to_document()
    assert record["code"] == {"commit": "c", "dirty": False}
    assert record["data"] == {"digest": "d", "rows": 3}
    assert record["model"] == {"name_or_path": "m", "sha256": "s"}
    assert record["environment"] == {
        "sha256": "pex", "lock_digest": "lock", "python": "3.11.7", "packages": {"torch": "2"}
    }  # fmt: skip
    assert record["randomness"] == {"seeds": {"weights": 17}, "determinism": {"flag": True}}
    assert record["hyperparameters"] == {"seed": 17, "digest": "e"}
    assert record["hardware"] == {"cpu": "x"}
    assert record["plugins"] == {"launcher": {"p": "1"}, "trainer": {"v": "2"}}
    assert (record["cluster"]["name"], record["cluster"]["native_id"]) == ("local", "4711")
    assert record["metrics"]["last_loss"] == 1.0
    assert (record["schema"], record["run"], record["written_at"]) == (1, "first", NOW)
    assert record["outcome"]["state"] == "SUCCEEDED"


def test_the_record_lists_whole_checkpoints_in_order_and_whole_model_files(run: RunDir) -> None:
    record = compose_record(run, ENDED, NOW)
    assert [(one["path"], one["step"]) for one in record.checkpoints] == [
        ("checkpoints/step-000010", 10), ("checkpoints/step-000020", 20),
    ]  # fmt: skip
    assert record.checkpoints[0]["sha256"] == sha256_of_file(run.checkpoints / "step-000010" / "checkpoint.json")
    assert [one.file for one in record.model_files] == ["model.safetensors", "sub/config.json"]
    assert record.model_files[0].sha256 == sha256_of_file(run.model / "model.safetensors")


def test_what_a_killed_run_did_not_write_is_empty_and_the_rest_is_told(run: RunDir) -> None:
    run.training.unlink()
    run.handle.write_text('{"cluster": "lo')
    record = compose_record(run, JobStatus(state=JobState.FAILED, signal=9), NOW)
    assert (record.hardware, record.metrics["steps"], record.cluster["name"]) == ({}, None, None)
    assert (record.code["commit"], record.outcome.signal) == ("c", 9)


def test_the_record_has_a_digest_of_every_loss_and_of_nothing_that_takes_time(run: RunDir) -> None:
    assert "losses_sha256" not in compose_record(run, ENDED, NOW).metrics
    first = '{"step": 1, "loss": 3.0, "elapsed_seconds": %s}\n{"step": 2, "loss": %s}\n{"evaluation_loss": 1}\n{"st'
    run.metrics.write_text(first % (1.0, 2.5))
    digest = compose_record(run, ENDED, NOW).metrics["losses_sha256"]
    assert read_losses(run.metrics) == {1: 3.0, 2: 2.5}
    run.metrics.write_text('{"step": 2, "loss": 9.0}\n' + first % (7.0, 2.5))  # a resumed run repeats steps
    assert compose_record(run, ENDED, NOW).metrics["losses_sha256"] == digest
    run.metrics.write_text(first % (1.0, "NaN"))
    assert compose_record(run, ENDED, NOW).metrics["losses_sha256"] != digest


def test_the_record_says_what_the_run_cost_where_a_price_was_known(run: RunDir) -> None:
    status = ENDED.model_copy(update={"started_at": "2026-11-21T00:00:00.000Z", "ended_at": "2026-11-21T00:30:00.000Z"})
    assert compose_record(run, status, NOW).cost == {}
    write_json_atomically(run.estimate, {"per_hour": 3.0, "currency": "USD"})
    cost = {"hours": 0.5, "per_hour": 3.0, "amount": 1.5, "currency": "USD"}
    assert compose_record(run, status, NOW).cost == cost


def test_the_record_of_a_later_stage_says_what_its_data_was_prepared_with(run: RunDir) -> None:
    job = json.loads(run.job.read_text())
    job["origin"]["first_model"] = {"name_or_path": "m", "chat_template": "tulu"}
    write_json_atomically(run.job, job)
    assert compose_record(run, ENDED, NOW).data["prepared_with"] == {"name_or_path": "m", "chat_template": "tulu"}


def test_a_written_record_reads_back(run: RunDir) -> None:
    record = compose_record(run, ENDED, NOW)
    write_record(run, record)
    assert ProvenanceRecord.model_validate_json(run.provenance.read_bytes()) == record


def test_times_are_utc_with_milliseconds() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", utc_now())


def test_equal_values_have_equal_digests_whatever_the_order_of_their_keys() -> None:
    assert canonical_json({"b": [1, 2.5], "a": "ü"}) == '{"a":"ü","b":[1,2.5]}'
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1}) != digest_of({"a": 1, "b": 3})
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


# ---- caches and checkpoints


def make_cache(path: Path) -> Path:
    path.mkdir()
    for name in ("tokens-00000.arrow", "packing.arrow", "statistics.json"):
        (path / name).write_text(f"content of {name}")
    key = {"seed": 1}
    shard = FileRecord.of(path, "tokens-00000.arrow").model_dump()
    manifest = DatasetManifest(
        format_version=1, digest=digest_of(key), key=key, id_type="uint16", vocabulary_size=9, eos_token_id=1,
        pad_token_id=None, rows=1, tokens=2, trained_tokens=1,
        shards=(ShardRecord(**shard, rows=1, tokens=2, trained_tokens=1),),
        packing=FileRecord.of(path, "packing.arrow"), statistics=FileRecord.of(path, "statistics.json"),
    )  # fmt: skip
    write_json_atomically(path / "manifest.json", manifest.to_document())
    return path


def test_a_whole_cache_is_verified(tmp_path: Path) -> None:
    assert verify_cache(make_cache(tmp_path / "cache")).rows == 1


@pytest.mark.parametrize("name", ["tokens-00000.arrow", "packing.arrow", "statistics.json"])
@pytest.mark.parametrize("damage", ["flipped", "shorter", "gone"])
def test_a_damaged_file_of_a_cache_is_named(name: str, damage: str, tmp_path: Path) -> None:
    path = make_cache(tmp_path / "cache") / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if damage == "shorter" else bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(CacheCorrupted, match=re.escape(str(path))):
        verify_cache(path.parent)


def test_a_cache_without_a_manifest_is_none_and_a_changed_key_is_found(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "cache")
    document = json.loads((cache / "manifest.json").read_text())
    document["key"]["seed"] = 2
    (cache / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(CacheCorrupted, match="key"):
        read_manifest(cache)
    (cache / "manifest.json").write_text("{")
    with pytest.raises(CacheCorrupted, match="is not a dataset manifest"):
        read_manifest(cache)
    (cache / "manifest.json").unlink()
    with pytest.raises(NotFound):
        read_manifest(cache)


def test_a_damaged_checkpoint_is_named_and_one_without_its_record_is_none(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("weights")
    manifest = CheckpointManifest(
        step=3, variant="full", experiment_digest="e", dataset_digest="d", num_processes=1, position={},
        files=(FileRecord.of(tmp_path, "model.safetensors"),),
    )  # fmt: skip
    with pytest.raises(NotFound):
        verify_checkpoint(tmp_path)
    write_json_atomically(tmp_path / "checkpoint.json", manifest.to_document())
    assert verify_checkpoint(tmp_path) == manifest
    (tmp_path / "model.safetensors").write_text("weighty")
    with pytest.raises(CheckpointCorrupted, match=r"model\.safetensors"):
        verify_checkpoint(tmp_path)
