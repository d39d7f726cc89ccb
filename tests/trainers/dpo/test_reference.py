"""The reference of DPO: computed once, kept like datasets, and never wrong in silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from conformance.tiny_jobs import (
    make_cache,
    make_conversations,
    make_job,
    make_model,
    make_pairs,
    metrics_of,
    model_bytes,
    save_weights,
)
from conformance.variant_suite import cut_short
from tunewright.contracts.datasets import read_manifest
from tunewright.contracts.errors import InvalidExperiment, TrainingDiverged
from tunewright.contracts.spec import digest_of
from tunewright.trainer.dataset import TokenDataset
from tunewright.trainer.job import open_job
from tunewright.trainer.session import Session, make_beginning, open_session
from tunewright.trainer.strategies.choosing import start_engine
from tunewright.trainer.training import run_training
from tunewright.variants.dpo.reference import (
    Reference,
    compute_reference,
    find_reference,
    plan_passes,
    reference_key,
    share_of,
)
from tunewright.variants.dpo.reference_cache import DIRECTORY, read_directory, write_directory

PAIRS = make_pairs(7, seed=5)


def make(root: Path, run: str = "run", pairs: Any = PAIRS, **arguments: Any) -> Path:
    """A job on pretrained weights that have dropout, so that training mode would show."""
    model = root / "model"
    if not model.exists():
        make_model(model, attention_dropout=0.4)
        save_weights(model)
    cache = root / "cache"
    found = list(cache.glob("*/manifest.json"))
    where = found[0].parent if found else make_cache(cache, pairs, sequences_per_example=2)
    return make_job(root, model, where, run=run, variant="dpo", weights="pretrained", **arguments)


@contextmanager
def opened(job: Path) -> Iterator[Session]:
    ready = open_job(job)
    engine = start_engine(ready.experiment)
    try:
        yield open_session(ready, engine)
    finally:
        engine.close()


def kept(root: Path) -> list[Path]:
    """The directories in which references are kept below `root`."""
    return sorted(path.parent for path in root.rglob(f"{DIRECTORY}/*/manifest.json"))


def values_of(session: Session) -> np.ndarray[Any, Any]:
    """The reference that the session's objective goes by."""
    objective: Any = session.objective
    ((_, values),) = objective.reference._parts
    found: np.ndarray[Any, Any] = values
    return found


@torch.no_grad()
def slow_values(model: Path, pairs: Any) -> list[float]:
    """Each answer alone, from the whole distribution in float64, without dropout."""
    loaded = AutoModelForCausalLM.from_pretrained(model).eval()
    values = []
    for one in pairs:
        log_probabilities = loaded(input_ids=torch.tensor([one.ids])).logits[0].double().log_softmax(-1)
        ((start, end),) = one.spans
        values.append(sum(float(log_probabilities[place - 1, one.ids[place]]) for place in range(start, end)))
    return values


def test_it_is_the_starting_model_without_dropout_and_the_model_is_in_training_mode_afterwards(tmp_path: Path) -> None:
    with opened(make(tmp_path)) as session:
        assert values_of(session) == pytest.approx(slow_values(tmp_path / "model", PAIRS), rel=1e-5)
        assert session.model.wrapped.training
        assert all(parameter.grad is None for parameter in session.parameters)


def test_the_next_run_takes_it_from_beside_the_dataset_whatever_its_loss_and_starts_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(make(tmp_path)) as session:
        first, state = values_of(session), torch.get_rng_state()
    assert "reference: computed for 14 answers" in capsys.readouterr().out
    (directory,) = kept(tmp_path)
    assert directory.parent == tmp_path / "cache" / DIRECTORY
    with opened(make(tmp_path, "next", options={"beta": 0.7, "loss": "norm", "lora": {"rank": 2}})) as session:
        assert values_of(session).tobytes() == first.tobytes()
        assert torch.equal(torch.get_rng_state(), state)
    said = capsys.readouterr().out
    assert f"reference: from cache {directory.name[:12]}" in said
    assert "computed" not in said
    assert kept(tmp_path) == [directory]


def test_whatever_decides_the_numbers_decides_the_digest(tmp_path: Path) -> None:
    with opened(make(tmp_path)) as session:
        beginning = make_beginning(session)
    identity = beginning.model_identity

    def key(dataset: str = "d", reference: Any = None, model: Any = None, **changes: Any) -> Any:
        changed = {
            **identity,
            "reference": {**identity["reference"], "sha256": "a", **(reference or {})},
            "model": {**identity["model"], **(model or {})},
            **changes,
        }
        return reference_key(replace(beginning, model_identity=changed), dataset)

    same = key()
    assert key(reference={"name_or_path": "/elsewhere"}, model={"name_or_path": "run:other"}) == same
    assert key(options={"beta": 3.0, "lora": {"rank": 64}}) == same
    for other in (
        key(dataset="e"),
        key(reference={"sha256": "b"}),
        key(reference={"sha256": None, "revision": "c"}),
        key(model={"dtype": "bfloat16"}),
        key(model={"attention": "eager"}),
        key(seed=18),
        key(options={"lora": {"use_dora": True}}),
    ):
        assert other != same


def test_a_model_whose_digest_the_job_does_not_know_is_known_by_its_files(tmp_path: Path) -> None:
    with opened(make(tmp_path)) as session:
        before = reference_key(make_beginning(session), "d")
        save_weights(tmp_path / "model", seed=9)
        assert reference_key(make_beginning(session), "d") != before


@pytest.mark.parametrize("damage", ["numbers", "manifest", "key", "gone"])
def test_a_damaged_one_is_said_computed_again_and_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    with opened(make(tmp_path)) as session:
        first = values_of(session)
    (directory,) = kept(tmp_path)
    numbers, manifest = directory / "log_probabilities.npy", directory / "manifest.json"
    if damage == "numbers":
        data = bytearray(numbers.read_bytes())
        data[-3] ^= 1
        numbers.write_bytes(data)
    elif damage == "manifest":
        manifest.write_bytes(manifest.read_bytes()[:-40])
    elif damage == "key":
        document = json.loads(manifest.read_text())
        manifest.write_text(json.dumps({**document, "key": {**document["key"], "seed": 99}}))
    else:
        numbers.unlink()
    capsys.readouterr()
    with opened(make(tmp_path, "next")) as session:
        assert values_of(session).tobytes() == first.tobytes()
    said = capsys.readouterr().out
    assert str(directory) in said
    assert "computing it again" in said
    found = read_directory(directory)
    assert found is not None
    assert found.tobytes() == first.tobytes()
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]


def test_where_nothing_can_be_written_beside_the_dataset_it_is_kept_with_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make(tmp_path)
    (tmp_path / "cache" / DIRECTORY).write_text("a file in the way stands for a read-only disk")
    with opened(job):
        pass
    (directory,) = kept(tmp_path)
    assert directory.parent == job.parent / DIRECTORY
    assert "cannot be written" in capsys.readouterr().out
    with opened(job):
        assert "reference: from cache" in capsys.readouterr().out


def test_many_writers_leave_one_whole_reference_and_nothing_else(tmp_path: Path) -> None:
    key = {"some": "key"}
    directory = tmp_path / DIRECTORY / digest_of(key)
    values = [np.full(1000, float(writer)) for writer in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(write_directory, directory, key, one) for one in values]:
            done.result()
    found = read_directory(directory)
    assert found is not None
    assert len(set(found.tolist())) == 1
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]


def test_passes_hold_neighbours_up_to_the_longest_sequence_and_all_processes_make_as_many(tmp_path: Path) -> None:
    with opened(make(tmp_path)) as session:
        dataset = session.dataset
    lengths = [len(one.ids) for one in PAIRS]
    passes = plan_passes(dataset, sequences_apart=True)
    assert [number for numbers in passes for number in numbers] == list(range(14))
    assert max(sum(lengths[number] for number in numbers) for numbers in passes) == max(lengths)
    assert len(passes) < 14
    assert plan_passes(dataset, sequences_apart=False) == [range(number, number + 1) for number in range(14)]
    for num_processes in (1, 2, 3, 14, 20):
        shares = [share_of(passes, rank, num_processes) for rank in range(num_processes)]
        assert len({len(share) for share in shares}) == 1
        assert {numbers for share in shares for numbers in share} == set(passes)


def test_it_is_the_same_bits_however_many_processes_compute_it(tmp_path: Path) -> None:
    with opened(make(tmp_path)) as session:
        alone = compute_reference(make_beginning(session), session.dataset)
        shares: list[Any] = []

        def gather(value: object) -> list[Any]:
            shares.append(value)
            return list(shares)

        for rank in range(2):  # the second one has both shares
            one = replace(make_beginning(session), rank=rank, num_processes=3, gather=gather)
            with pytest.raises(TrainingDiverged, match="log-probability of nan"):
                compute_reference(one, session.dataset)
        together = compute_reference(replace(one, rank=2), session.dataset)
    assert together.tobytes() == alone.tobytes()


def test_a_starting_model_that_gives_no_numbers_is_refused_and_not_kept(tmp_path: Path) -> None:
    with opened(make(tmp_path)) as session:
        shutil.rmtree(tmp_path / "cache" / DIRECTORY)
        with torch.no_grad():
            session.parameters[-1].fill_(float("nan"))
        with pytest.raises(TrainingDiverged, match="answer 0 a log-probability of nan"):
            find_reference(make_beginning(session), session.dataset, "d")
    assert kept(tmp_path) == []


def test_a_dataset_of_the_evaluations_own_has_its_reference_too(tmp_path: Path) -> None:
    others = make_pairs(4, seed=8)
    cache = make_cache(tmp_path / "cache" / "evaluation", others, sequences_per_example=2)
    with opened(make(tmp_path)) as session:
        first = session.dataset.num_sequences
        dataset = TokenDataset(cache, read_manifest(cache), packing=False, sequences_per_example=2, first_number=first)
        reference = Reference()
        reference.begin(
            replace(make_beginning(session), evaluation_dataset=dataset, evaluation_dataset_digest=cache.name)
        )

        class Numbers:
            sequences = (0, 13, first, first + 7)

        found = reference.of(Numbers()).tolist()  # type: ignore[arg-type]
    own, theirs = slow_values(tmp_path / "model", PAIRS), slow_values(tmp_path / "model", others)
    assert found == pytest.approx([own[0], own[13], theirs[0], theirs[7]], rel=1e-5)
    assert len(kept(tmp_path)) == 2


def test_training_starts_at_indifference_and_ranks_pairs_right_in_the_end(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    save_weights(model)
    job = make(tmp_path, num_epochs=12, batch_size=8)
    run_training(open_job(job))
    lines = metrics_of(job)
    assert lines[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert lines[0]["margin"] == pytest.approx(0, abs=1e-5)
    assert lines[-1]["loss"] < 0.6
    assert lines[-1]["accuracy"] == 1.0
    assert lines[-1]["rewards_chosen"] - lines[-1]["rewards_rejected"] == pytest.approx(lines[-1]["margin"])


def test_packed_pairs_train_as_pairs_on_their_own(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    save_weights(model)
    plain = make(tmp_path, "plain", batch_size=8, max_steps=3)
    cache = make_cache(tmp_path / "packed", PAIRS, [range(6), range(6, 10), range(10, 14)], sequences_per_example=2)
    packed = make_job(
        tmp_path, model, cache, run="packed-rows", variant="dpo", weights="pretrained", packing=True, batch_size=4,
        max_steps=3,
    )  # fmt: skip
    for job in (plain, packed):
        run_training(open_job(job))
    for one, other in zip(metrics_of(plain), metrics_of(packed), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
        assert other["margin"] == pytest.approx(one["margin"], rel=1e-3, abs=1e-5)


def test_a_run_that_goes_on_without_the_cache_ends_with_the_same_bytes(tmp_path: Path) -> None:
    job = make(tmp_path, num_epochs=2, checkpoint={"every": "epoch", "keep_last": 5})
    run_training(open_job(job))
    resumed = cut_short(job, tmp_path / "runs" / "resumed", keep="step-000002")
    shutil.rmtree(tmp_path / "cache" / DIRECTORY)
    run_training(open_job(resumed))
    assert model_bytes(resumed) == model_bytes(job)


def test_conversations_are_no_pairs(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "cache", make_conversations(4))
    job = make_job(tmp_path, make_model(tmp_path / "model"), cache, variant="dpo")
    words = "pairs of a chosen and a rejected answer"
    with pytest.raises(InvalidExperiment, match=words) as caught, opened(job):
        pass
    assert "preference" in caught.value.problems[0].hint


def test_smoothing_tokens_is_refused_where_pairs_are_trained_on(tmp_path: Path) -> None:
    with pytest.raises(InvalidExperiment, match="label_smoothing"), opened(make(tmp_path, label_smoothing=0.1)):
        pass
