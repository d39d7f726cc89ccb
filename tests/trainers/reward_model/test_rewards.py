"""What a reward model is trained for, and that users get the reward that was trained."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from conformance.tiny_jobs import (
    make_cache,
    make_job,
    make_model,
    make_pairs,
    metrics_of,
    save_weights,
)
from tunewright.contracts.errors import InvalidExperiment, UsageError
from tunewright.trainer.batches import make_batch
from tunewright.trainer.dataset import TokenSequence
from tunewright.trainer.export import export_model
from tunewright.trainer.job import open_job
from tunewright.trainer.session import Session, build_model, load_variant, make_context, open_session
from tunewright.trainer.strategies.choosing import start_engine
from tunewright.trainer.training import run_training
from tunewright.variants.reward_model.objective import pair_losses, scored_positions
from tunewright.variants.reward_model.options import RewardModelOptions

PAIRS = make_pairs(6, seed=2)


def make(root: Path, run: str = "run", **arguments: Any) -> Path:
    model = root / "model"
    if not model.exists():
        make_model(model)
        save_weights(model)
    cache = make_cache(root / f"cache-{run}", PAIRS, sequences_per_example=2)
    settings = {"weights": "pretrained", "batch_size": 6, "num_epochs": 12, **arguments}
    return make_job(root, model, cache, run=run, variant="reward_model", **settings)


@torch.no_grad()
def rewards_of(model: Any, pairs: Any = PAIRS) -> list[float]:
    """The reward of each conversation alone, as a user asks for it."""
    return [float(model.eval()(input_ids=torch.tensor([one.ids])).logits[0, 0]) for one in pairs]


@torch.no_grad()
def trained_rewards(session: Session) -> list[float]:
    """The rewards that training goes by, all pairs in one row."""
    session.model.wrapped.eval()
    batch = make_batch([session.dataset.sequence(number) for number in range(len(PAIRS))])
    objective: Any = session.objective
    kept = scored_positions(batch, objective.padding_token)
    rewards: list[float] = session.model.logits(batch, logits_to_keep=kept)[:, 0].tolist()
    return rewards


def test_chosen_answers_are_ranked_above_rejected_ones_and_the_finished_model_says_so_too(tmp_path: Path) -> None:
    job = make(tmp_path)
    run_training(open_job(job))
    lines = metrics_of(job)
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=0.3)
    assert lines[-1]["accuracy"] == 1.0
    assert lines[-1]["loss"] < 0.1
    assert lines[-1]["margin"] == pytest.approx(lines[-1]["rewards_chosen"] - lines[-1]["rewards_rejected"])
    rewards = rewards_of(AutoModelForSequenceClassification.from_pretrained(job.parent / "model"))
    assert all(chosen > rejected for chosen, rejected in zip(rewards[0::2], rewards[1::2], strict=True))


@pytest.mark.parametrize("padding", ["w1", "w2", None])
def test_the_reward_is_the_one_of_transformers_whatever_pads_alone_and_in_a_batch(
    tmp_path: Path, padding: str | None
) -> None:
    """Where the token that ends conversations pads, too (w1), transformers looks before it: so does training."""
    model = make_model(tmp_path / "model")
    save_weights(model)
    AutoTokenizer.from_pretrained(model, pad_token=padding).save_pretrained(model)
    job = make(tmp_path, max_steps=2, num_epochs=None)
    run_training(open_job(job))
    opened = open_job(job)
    engine = start_engine(opened.experiment)
    try:
        session = open_session(opened, engine)
        loaded = AutoModelForSequenceClassification.from_pretrained(job.parent / "model")
        with torch.no_grad():
            for name, parameter in session.trained.model.named_parameters():
                parameter.copy_(loaded.get_parameter(name))
        expected = trained_rewards(session)
    finally:
        engine.close()
    assert loaded.config.pad_token_id == {"w1": 1, "w2": 2, None: 2}[padding]
    assert loaded.config.architectures == ["LlamaForSequenceClassification"]
    assert rewards_of(loaded) == pytest.approx(expected, abs=1e-5)
    assert padded_rewards(loaded) == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def padded_rewards(model: Any) -> list[float]:
    longest, padding = max(len(one.ids) for one in PAIRS), model.config.pad_token_id
    ids = torch.tensor([[*one.ids, *[padding] * (longest - len(one.ids))] for one in PAIRS])
    mask = torch.tensor([[1] * len(one.ids) + [0] * (longest - len(one.ids)) for one in PAIRS])
    rewards: list[float] = model.eval()(input_ids=ids, attention_mask=mask).logits[:, 0].tolist()
    return rewards


def test_the_score_is_at_the_last_token_that_is_not_padding() -> None:
    conversations = [(5, 6, 7, 1), (8, 1, 9), (1, 1), (4,)]
    batch = make_batch([TokenSequence(np.array(one), np.empty(0, int)) for one in conversations])
    assert scored_positions(batch, None).tolist() == [3, 6, 8, 9]
    assert scored_positions(batch, 2).tolist() == [3, 6, 8, 9]
    assert scored_positions(batch, 1).tolist() == [2, 6, 7, 9]


def test_the_losses_are_the_papers_formulas() -> None:
    chosen, rejected = torch.tensor([1.5, -0.2]), torch.tensor([0.3, 0.4])
    for margin, coefficient in ((0.0, 0.0), (0.7, 0.0), (0.0, 0.1), (0.7, 0.1)):
        options = RewardModelOptions(margin=margin, center_rewards_coefficient=coefficient)
        expected = [
            math.log1p(math.exp(-(float(c) - float(r) - margin))) + coefficient * (float(c) + float(r)) ** 2
            for c, r in zip(chosen, rejected, strict=True)
        ]
        assert pair_losses(chosen, rejected, options).tolist() == pytest.approx(expected, rel=1e-6)


def test_the_score_starts_small_and_decided_by_the_seed(tmp_path: Path) -> None:
    scores = []
    for run, seed in (("a", 1), ("b", 1), ("c", 2)):
        opened = open_job(make(tmp_path, run, seed=seed))
        engine = start_engine(opened.experiment)
        try:
            scores.append(build_model(load_variant(opened), make_context(opened, engine)).score.weight)
        finally:
            engine.close()
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])
    assert float(scores[0].detach().std()) == pytest.approx(1 / math.sqrt(65), rel=0.3)


def test_merged_adapters_give_the_reward_of_adapters_on_their_base(tmp_path: Path) -> None:
    job = make(tmp_path, options={"lora": {"rank": 4}})
    run_training(open_job(job))
    export_model(job.parent, tmp_path / "merged", merge=True)
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    adapted = AutoPeftModelForSequenceClassification.from_pretrained(job.parent / "model", num_labels=1)
    assert rewards_of(merged) == pytest.approx(rewards_of(adapted), abs=1e-4)
    assert merged.config.pad_token_id == 2
    assert metrics_of(job)[-1]["accuracy"] == 1.0
    assert "library_name: peft" in (job.parent / "model" / "README.md").read_text()


def test_a_whole_model_has_nothing_to_merge_and_its_card_says_transformers(tmp_path: Path) -> None:
    job = make(tmp_path, num_epochs=1)
    run_training(open_job(job))
    assert "library_name: transformers" in (job.parent / "model" / "README.md").read_text()
    with pytest.raises(UsageError, match="no adapters"):
        export_model(job.parent, tmp_path / "merged", merge=True)


def test_a_body_without_a_classifier_in_transformers_is_refused_by_name(tmp_path: Path) -> None:
    model = make_model(
        tmp_path / "model", architectures=["MambaForCausalLM"], model_type="mamba", state_size=4, num_hidden_layers=1
    )
    cache = make_cache(tmp_path / "cache", PAIRS, sequences_per_example=2)
    opened = open_job(make_job(tmp_path, model, cache, variant="reward_model"))
    engine = start_engine(opened.experiment)
    try:
        with pytest.raises(InvalidExperiment, match="no classifier with a score on the body of MambaForCausalLM"):
            open_session(opened, engine)
    finally:
        engine.close()


def test_a_target_that_matches_nothing_is_named_by_its_own_key(tmp_path: Path) -> None:
    opened = open_job(make(tmp_path, options={"lora": {"target_modules": ["query"]}}))
    engine = start_engine(opened.experiment)
    try:
        with pytest.raises(InvalidExperiment) as caught:
            open_session(opened, engine)
    finally:
        engine.close()
    assert [problem.path for problem in caught.value.problems] == ["training.options.lora.target_modules"]


@pytest.mark.parametrize("options", [{"margin": -1}, {"center_rewards_coefficient": -0.1}, {"rank": 4}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        RewardModelOptions.model_validate(options)
