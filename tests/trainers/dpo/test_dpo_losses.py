"""DPO's losses against the papers' formulas, computed slowly, and against TRL where it is installed."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from conformance.tiny_jobs import Conversation, make_cache, make_job, make_model, make_pairs, save_weights
from tunewright.trainer.batches import make_batch
from tunewright.trainer.job import open_job
from tunewright.trainer.session import Session, open_session
from tunewright.trainer.strategies.choosing import start_engine
from tunewright.variants.dpo.options import DpoOptions

PAIRS = make_pairs(5, seed=3)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Session, Path]]:
    """A session whose model has left its start, and the directory of the model that it started from."""
    root = tmp_path_factory.mktemp("dpo")
    model = make_model(root / "model")
    save_weights(model)
    cache = make_cache(root / "cache", PAIRS, sequences_per_example=2)
    engine = start_engine(
        (job := open_job(make_job(root, model, cache, variant="dpo", weights="pretrained"))).experiment
    )
    session = open_session(job, engine)
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in session.parameters:
            parameter.add_(0.02 * torch.randn_like(parameter))
    yield session, model
    engine.close()


@torch.no_grad()
def ours(session: Session, **options: Any) -> tuple[float, dict[str, float]]:
    """The mean loss of all pairs in one forward pass, and the other metrics."""
    objective: Any = session.objective
    objective.options = DpoOptions.model_validate(options)
    session.model.wrapped.eval()
    batch = make_batch([session.dataset.sequence(number) for number in range(len(PAIRS))])
    losses = objective.losses(session.model, batch)
    count = len(PAIRS) / 2
    return float(losses.total) / count, {name: float(value) / count for name, value in losses.sums.items()}


@torch.no_grad()
def answer_log_probability(model: Any, one: Conversation) -> tuple[float, int]:
    """Of the trained tokens, from the whole distribution at every position in float64; and how many those are."""
    log_probabilities = model.eval()(input_ids=torch.tensor([one.ids])).logits[0].double().log_softmax(-1)
    ((start, end),) = one.spans
    return sum(float(log_probabilities[place - 1, one.ids[place]]) for place in range(start, end)), end - start


def slow_loss(policy: Any, start: Any, options: DpoOptions) -> float:
    """The mean over pairs of the papers' formulas."""
    beta, total = options.beta, 0.0
    for chosen, rejected in zip(PAIRS[0::2], PAIRS[1::2], strict=True):
        (policy_c, size_c), (policy_r, size_r) = (answer_log_probability(policy, one) for one in (chosen, rejected))
        (start_c, _), (start_r, _) = (answer_log_probability(start, one) for one in (chosen, rejected))
        ratio_c, ratio_r = policy_c - start_c, policy_r - start_r
        if options.loss == "sigmoid":
            p = 1 / (1 + math.exp(-beta * (ratio_c - ratio_r)))
            total -= (1 - options.label_smoothing) * math.log(p) + options.label_smoothing * math.log(1 - p)
        elif options.loss == "norm":
            total += math.log1p(math.exp(-(beta / size_c * ratio_c - beta / size_r * ratio_r)))
        elif options.loss == "simpo":
            gamma = 0.5 if options.gamma is None else options.gamma
            total += math.log1p(math.exp(-(beta / size_c * policy_c - beta / size_r * policy_r - gamma)))
        else:
            total += (ratio_c / size_c - ratio_r / size_r - 1 / (2 * beta)) ** 2
    return total / (len(PAIRS) / 2)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beta": 2.0},
        {"label_smoothing": 0.2},
        {"loss": "norm", "beta": 5.0},
        {"loss": "simpo", "beta": 2.0},
        {"loss": "simpo", "beta": 2.0, "gamma": 1.5},
        {"loss": "ipo"},
    ],
)
def test_each_loss_is_its_papers_formula(started: tuple[Session, Path], options: dict[str, Any]) -> None:
    session, model = started
    start = AutoModelForCausalLM.from_pretrained(model)
    expected = slow_loss(session.trained.model, start, DpoOptions.model_validate(options))
    assert ours(session, **options)[0] == pytest.approx(expected, rel=1e-5)


def test_rewards_and_their_margin_are_means_over_pairs_and_accuracy_counts_the_right_order(
    started: tuple[Session, Path],
) -> None:
    session, model = started
    start = AutoModelForCausalLM.from_pretrained(model)
    _, metrics = ours(session, beta=0.3)
    gains = [
        0.3 * (answer_log_probability(session.trained.model, one)[0] - answer_log_probability(start, one)[0])
        for one in PAIRS
    ]
    chosen, rejected, count = gains[0::2], gains[1::2], len(PAIRS) / 2
    assert metrics["rewards_chosen"] == pytest.approx(sum(chosen) / count, rel=1e-4)
    assert metrics["rewards_rejected"] == pytest.approx(sum(rejected) / count, rel=1e-4)
    assert metrics["margin"] == pytest.approx((sum(chosen) - sum(rejected)) / count, rel=1e-4)
    assert metrics["accuracy"] == sum(one > other for one, other in zip(chosen, rejected, strict=True)) / count


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "norm", "label_smoothing": 0.1}, "label_smoothing"),
        ({"gamma": 1.0}, "gamma"),
        ({"beta": 0}, "beta"),
        ({"label_smoothing": 0.5}, "label_smoothing"),
        ({"loss": "hinge"}, "loss"),
        ({"lora": {"rank": 0}}, "rank"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DpoOptions.model_validate(options)


@pytest.mark.timeout(180)  # the first one imports TRL
@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({"loss": "sigmoid", "beta": 0.1}, {"loss_type": ["sigmoid"], "beta": 0.1}),
        ({"loss": "norm", "beta": 5.0}, {"loss_type": ["sigmoid_norm"], "beta": 5.0}),
        ({"loss": "ipo", "beta": 0.1}, {"loss_type": ["ipo"], "beta": 0.1}),
    ],
)
def test_the_loss_equals_trls_on_the_same_batch(
    started: tuple[Session, Path], tmp_path: Path, options: dict[str, Any], theirs: dict[str, Any]
) -> None:
    session, model = started
    loss, metrics = ours(session, **options)
    expected, expected_metrics = trl_loss(session, model, tmp_path, theirs)
    assert loss == pytest.approx(expected, abs=1e-5)
    assert metrics["accuracy"] == pytest.approx(expected_metrics["rewards/accuracies"][0])


def trl_loss(session: Session, model: Path, directory: Path, options: dict[str, Any]) -> tuple[float, Any]:
    """The loss that TRL's trainer computes of all pairs, padded by its own collator, with its own reference model."""
    from trl import DPOConfig, DPOTrainer
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    tokenizer = AutoTokenizer.from_pretrained(model, pad_token="w2")
    policy = copy.deepcopy(session.trained.model)
    trainer = DPOTrainer(
        model=policy,
        ref_model=AutoModelForCausalLM.from_pretrained(model),
        args=DPOConfig(
            output_dir=str(directory), use_cpu=True, report_to=[], bf16=False, max_length=None,
            gradient_checkpointing=False, **options,
        ),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"prompt": "w5", "chosen": "w6", "rejected": "w7"}]),
    )  # fmt: skip
    examples = [padded_example(*pair) for pair in zip(PAIRS[0::2], PAIRS[1::2], strict=True)]
    batch = DataCollatorForPreference(pad_token_id=2)(examples)
    trainer.model.eval()
    with torch.no_grad():
        loss = float(trainer.compute_loss(trainer.model, batch))
    return loss, trainer._metrics["eval"]


def padded_example(chosen: Conversation, rejected: Conversation) -> dict[str, list[int]]:
    """A pair as TRL's collator takes it."""
    ((start, _),) = chosen.spans
    prompt, *answers = chosen.ids[:start], chosen.ids[start:], rejected.ids[start:]
    return dict(zip(("prompt_ids", "chosen_ids", "rejected_ids"), map(list, (prompt, *answers)), strict=True))
