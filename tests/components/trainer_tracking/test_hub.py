"""Pushing the final model to a repository on the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.trainer_tracking.upload_hub import TOKEN, UploadHub
from conformance.tiny_jobs import make_cache, make_conversations, make_job, make_model, model_bytes
from tunewright.contracts.errors import InvalidExperiment, Unavailable
from tunewright.contracts.experiment import PublishSpec
from tunewright.trainer.job import open_job
from tunewright.trainer.publishing.hub import push_model
from tunewright.trainer.training import run_training

PUBLISH = PublishSpec(hub_repository="us/quickstart")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadHub]:
    """A hub that huggingface_hub finds, with a token that may write."""
    from huggingface_hub import constants

    with UploadHub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Something to push: a large file and small ones."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "model.safetensors").write_bytes(b"weights" * 1000)
    (directory / "config.json").write_text("{}")
    (directory / "README.md").write_text("# ours\n")
    return directory


def push(model: Path, publish: PublishSpec = PUBLISH) -> str:
    return push_model(model, publish, "a message", pauses_seconds=(0.0, 0.0))


def files_of(model: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in model.iterdir()}


def test_a_run_pushes_its_model_and_its_record_says_where(hub: UploadHub, tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "cache", make_conversations(8))
    tables = {"publish": PUBLISH.to_document()}
    job = make_job(tmp_path, make_model(tmp_path / "base"), cache, max_steps=2, tables=tables)
    run_training(open_job(job))
    pushed = hub.branches["us/quickstart"]["main"]
    assert pushed == files_of(job.parent / "model")
    assert set(model_bytes(job)) <= set(pushed)
    record = json.loads((job.parent / "provenance.json").read_text())
    assert record["published"]["hub_repository"] == "us/quickstart"
    assert len(record["published"]["hub_commit"]) == 40
    assert TOKEN not in "".join(p.read_text(errors="ignore") for p in job.parent.rglob("*") if p.is_file())


def test_a_new_repository_is_private_unless_the_file_says_otherwise(hub: UploadHub, model: Path) -> None:
    push(model)
    push(model, PublishSpec(hub_repository="us/public", private=False))
    assert hub.is_private == {"us/quickstart": True, "us/public": False}


def test_a_branch_is_made_and_the_default_one_stays_as_it_is(hub: UploadHub, model: Path) -> None:
    push(model, PublishSpec(hub_repository="us/quickstart", revision="run-7"))
    push(model, PublishSpec(hub_repository="us/quickstart", revision="run-7"))
    assert hub.branches["us/quickstart"]["run-7"] == files_of(model)
    assert hub.branches["us/quickstart"]["main"] == {}


def test_pushing_again_sends_nothing_that_is_there(hub: UploadHub, model: Path) -> None:
    push(model)
    push(model)
    assert hub.large_uploads == 1
    assert hub.messages == ["a message"], "a commit without a change is none"


@pytest.mark.parametrize("part", ["repos/create", "preupload", "commit"])
def test_an_outage_is_waited_for(hub: UploadHub, model: Path, part: str, capsys: Any) -> None:
    hub.faults += [(part, 500), (part, 502)]
    push(model)
    assert hub.branches["us/quickstart"]["main"] == files_of(model)


def test_an_outage_that_lasts_ends_in_words_with_69(hub: UploadHub, model: Path) -> None:
    hub.faults += [("repos/create", 500)] * 9
    with pytest.raises(Unavailable, match=r"us/quickstart could not be pushed to") as caught:
        push(model)
    assert caught.value.exit_code == 69
    assert caught.value.hint


def test_a_token_that_may_not_write_is_refused_at_once(
    hub: UploadHub, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(InvalidExperiment, match="does not accept the token") as caught:
        push(model)
    assert caught.value.exit_code == 78
    assert "hf_another" not in str(caught.value)
    assert hub.branches == {}


def test_a_token_that_may_not_write_is_found_before_the_first_step(
    hub: UploadHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    cache = make_cache(tmp_path / "cache", make_conversations(8))
    tables = {"publish": PUBLISH.to_document()}
    job = make_job(tmp_path, make_model(tmp_path / "base"), cache, max_steps=2, tables=tables)
    with pytest.raises(InvalidExperiment, match="does not accept the token"):
        run_training(open_job(job))
    assert not (job.parent / "metrics.jsonl").exists()
