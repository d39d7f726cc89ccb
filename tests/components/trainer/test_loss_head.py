"""The fused output layer and cross-entropy: the numbers of the plain computation in a fraction of its memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM

from components.trainer.tiny_sessions import session_of
from conformance.tiny_jobs import TINY_CONFIG
from tunewright.trainer.batches import Batch
from tunewright.trainer.computing import assembling, chunked_loss
from tunewright.trainer.computing.assembling import call_model, try_model
from tunewright.trainer.computing.chunked_loss import OutputLayer, chunks_of
from tunewright.trainer.computing.language_model import LanguageModel, takes_positions_to_keep
from tunewright.trainer.computing.loss_head import find_loss_head

CPU = torch.device("cpu")
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def make_layer(tokens: int, hidden: int, vocabulary: int, dtype: torch.dtype = torch.float32) -> Tensors:
    """Hidden states, weight and bias that require gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((tokens, hidden), (vocabulary, hidden), (vocabulary,))
    made = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]
    return made[0], made[1], made[2]


def labels_of(tokens: int, vocabulary: int) -> torch.Tensor:
    return torch.randint(0, vocabulary, (tokens,), generator=torch.Generator().manual_seed(1))


def gradients_of(loss: torch.Tensor, tensors: Tensors) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss * 0.3, tensors))


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest, in parts of the largest value."""
    return float((one.detach() - other.detach()).abs().max() / other.detach().abs().max())


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks and blocks also where there are few tokens."""
    monkeypatch.setattr(chunked_loss, "_LOGITS_OF_A_CHUNK_ON_CPU", 1)
    monkeypatch.setattr(chunked_loss, "_WEIGHTS_OF_A_BLOCK", 700)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients_are_those_of_torch(smoothing: float) -> None:
    tensors, labels = make_layer(50, 24, 130), labels_of(50, 130)
    hidden, weight, bias = tensors
    plain = cross_entropy(hidden @ weight.T + bias, labels, reduction="sum", label_smoothing=smoothing)
    fused = chunked_loss.summed_cross_entropy(hidden, OutputLayer(weight, bias, torch.float32), labels, smoothing)
    assert difference(fused, plain) <= 1e-6
    for one, other in zip(gradients_of(fused, tensors), gradients_of(plain, tensors), strict=True):
        assert difference(one, other) <= 1e-5


@pytest.mark.usefixtures("small_chunks")
def test_log_probabilities_have_their_gradient_with_any_weights() -> None:
    tensors, labels, weights = make_layer(50, 24, 130), labels_of(50, 130), torch.linspace(-2, 3, 50)
    hidden, weight, bias = tensors
    plain = -cross_entropy(hidden @ weight.T + bias, labels, reduction="none")
    fused = chunked_loss.token_log_probabilities(hidden, OutputLayer(weight, bias, torch.float32), labels)
    assert difference(fused, plain) <= 1e-6
    both = [gradients_of((one * weights).sum(), tensors) for one in (fused, plain)]
    assert all(difference(one, other) <= 1e-5 for one, other in zip(*both, strict=True))


@pytest.mark.usefixtures("small_chunks")
def test_bfloat16_matrices_give_a_loss_of_float32_and_a_weight_gradient_without_loss_by_chunks() -> None:
    hidden, weight, bias = make_layer(64, 24, 130)
    labels = labels_of(64, 130)
    exact = cross_entropy(hidden.bfloat16().float() @ weight.bfloat16().float().T + bias, labels, reduction="sum")
    fused = chunked_loss.summed_cross_entropy(hidden, OutputLayer(weight, bias, torch.bfloat16), labels)
    assert fused.dtype is torch.float32
    assert difference(fused, exact) <= 1e-2
    ours, reference = gradients_of(fused, (hidden, weight, bias)), gradients_of(exact, (hidden, weight, bias))
    assert [one.dtype for one in ours] == [torch.float32] * 3
    assert all(difference(one, other) <= 2e-2 for one, other in zip(ours, reference, strict=True))


def test_a_frozen_layer_gets_no_gradient_and_none_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_loss, "_add_product", lambda *_: pytest.fail("a gradient nobody asked for"))
    hidden, weight, _ = make_layer(8, 4, 30)
    frozen = weight.detach()
    chunked_loss.summed_cross_entropy(hidden, OutputLayer(frozen, None, torch.float32), labels_of(8, 30)).backward()  # type: ignore[no-untyped-call]  # torch has no types here
    assert hidden.grad is not None
    with torch.no_grad():
        chunked_loss.summed_cross_entropy(hidden, OutputLayer(weight, None, torch.float32), labels_of(8, 30))


def test_the_gradient_of_the_weight_becomes_the_parameters_own_without_a_copy() -> None:
    hidden, weight, _ = make_layer(8, 4, 30)
    loss = chunked_loss.summed_cross_entropy(hidden, OutputLayer(weight, None, torch.float32), labels_of(8, 30))
    (sums,) = [one for one in loss.grad_fn.gradients._sums if one is not None and one.shape == weight.shape]  # type: ignore[union-attr]
    address = sums.data_ptr()
    del sums
    loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
    assert weight.grad is not None
    assert weight.grad.data_ptr() == address


def test_chunks_cover_all_tokens_and_are_of_one_size() -> None:
    for tokens in (0, 1, 15, 100, 1000):
        chunks = list(chunks_of(tokens, 2**20, "cpu"))
        assert [index for one in chunks for index in range(tokens)[one]] == list(range(tokens))
        sizes = {one.stop - one.start for one in chunks}
        assert not sizes or (max(sizes) <= 16 and max(sizes) - min(sizes) <= 1)


def peak_bytes(compute: Callable[[], torch.Tensor]) -> int:
    """The most memory that tensors made in `compute` and in its backward pass had at one time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        compute().backward()  # type: ignore[no-untyped-call]  # torch has no types here
    current = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            current += event.nbytes()
            most = max(most, current)
    return most


@pytest.mark.parametrize("score", [False, True])
def test_a_large_vocabulary_takes_a_fifth_of_the_memory_of_plain_logits(score: bool) -> None:
    tokens, hidden_size, vocabulary = 768, 32, 65_536
    hidden, weight, _ = make_layer(tokens, hidden_size, vocabulary)
    labels, layer = labels_of(tokens, vocabulary), OutputLayer(weight, None, torch.float32)

    def fused() -> torch.Tensor:
        if score:
            return chunked_loss.token_log_probabilities(hidden, layer, labels).sum()
        return chunked_loss.summed_cross_entropy(hidden, layer, labels)

    def plain() -> torch.Tensor:
        return cross_entropy(hidden @ weight.T, labels, reduction="sum")

    weight.grad = hidden.grad = None
    theirs = peak_bytes(plain)
    assert theirs > 2 * tokens * vocabulary * 4
    weight.grad = hidden.grad = None
    assert peak_bytes(fused) <= theirs / 5


def make_model(**changes: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**TINY_CONFIG, **changes}))


def make_batch_of(lengths: tuple[int, ...] = (9, 14)) -> Batch:
    ids = torch.randint(0, 128, (sum(lengths),), generator=torch.Generator().manual_seed(2))
    predicting = torch.tensor([2, 3, 5, 11, 12, 20])
    positions = torch.cat([torch.arange(one) for one in lengths])
    return Batch(ids[None], positions[None], predicting, ids[predicting + 1], lengths, (3, 3), (0, 1))


def all_of(model: LanguageModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    model.wrapped.zero_grad()
    scores, loss = model.token_log_probabilities(batch), model.summed_cross_entropy(batch)
    (loss + (scores * torch.linspace(0, 1, len(scores))).sum()).backward()  # type: ignore[no-untyped-call]
    gradients = {name: one.grad.clone() for name, one in model.wrapped.named_parameters() if one.grad is not None}
    return loss, scores, gradients


@pytest.mark.parametrize("keeps_positions", [True, False])
@pytest.mark.parametrize(
    "changes", [{}, {"tie_word_embeddings": True}, {"model_type": "gpt_neox"}, {"model_type": "phi"}]
)
def test_a_model_gives_the_same_losses_and_gradients_with_and_without_it(
    changes: dict[str, Any], keeps_positions: bool
) -> None:
    model, batch = make_model(**changes), make_batch_of()
    head, reason = find_loss_head(model, model, CPU, torch.float32)
    assert (head is not None, reason) == (True, "")
    loss, scores, gradients = all_of(LanguageModel(model, keeps_positions, 0.1, head), batch)
    plain_loss, plain_scores, expected = all_of(LanguageModel(model, takes_positions_to_keep(model), 0.1), batch)
    assert difference(loss, plain_loss) <= 1e-5
    assert difference(scores, plain_scores) <= 1e-5
    assert gradients.keys() == expected.keys()
    assert all(torch.allclose(gradients[name], one, rtol=1e-3, atol=1e-5) for name, one in expected.items())


def test_autocast_computes_the_matrices_of_the_head_as_it_does_those_of_the_model() -> None:
    model, batch = make_model(), make_batch_of()
    head, _ = find_loss_head(model, model, CPU, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        fused = LanguageModel(model, True, 0.0, head).summed_cross_entropy(batch)
        plain = LanguageModel(model, True).summed_cross_entropy(batch)
    exact = LanguageModel(model, True).summed_cross_entropy(batch)
    assert fused.dtype is torch.float32
    assert difference(fused, plain) <= 1e-3 < difference(fused * 0 + exact * 1.1, exact)
    assert not torch.equal(fused, exact)


CHANGED = [
    {"model_type": "granite", "logits_scaling": 8.0},
    {"model_type": "cohere", "logit_scale": 0.0625},
    {"model_type": "gemma2", "final_logit_softcapping": 30.0, "head_dim": 16, "tie_word_embeddings": True},
]


@pytest.mark.parametrize("changes", CHANGED, ids=[str(one["model_type"]) for one in CHANGED])
def test_a_model_that_changes_its_logits_afterwards_is_found_out(changes: dict[str, Any]) -> None:
    model = make_model(**{**changes, "initializer_range": 0.002})
    before = torch.get_rng_state()
    head, reason = find_loss_head(model, model, CPU, torch.float32)
    assert head is None
    assert reason == "it changes its logits after the output layer"
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(one.grad is None for one in model.parameters())


def test_an_output_layer_of_another_kind_gives_logits() -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(make_model(), LoraConfig(target_modules=["lm_head"]))
    head, reason = find_loss_head(model, model.get_base_model(), CPU, torch.float32)
    assert head is None
    assert reason.startswith("its output layer is a")


def test_between_passes_the_layer_gives_logits_and_has_its_names() -> None:
    model = make_model()
    head, _ = find_loss_head(model, model, CPU, torch.float32)
    assert head is not None
    names, ids = list(model.state_dict()), torch.ones(1, 4, dtype=torch.int64)
    with pytest.raises(RuntimeError), head.summing(torch.zeros(3, dtype=torch.int64)):
        model(input_ids=ids)  # four tokens, three labels
    assert model(input_ids=ids).logits.shape == (1, 4, 128)
    assert list(model.state_dict()) == names
    assert "forward" not in vars(head.layer)


class Halving(torch.nn.Module):
    """Wraps a model as a strategy does, and does something to what it gives."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, **arguments: Any) -> Any:
        output = self.inner(**arguments)
        output.logits = output.logits / 2
        return output


def test_a_strategy_under_which_the_loss_is_another_gets_logits_and_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with session_of(tmp_path) as session:
        model, experiment = session.trained.model, session.job.experiment
        trial = try_model(model, model, session.context)
        fused = call_model(model, model, trial, session.engine, experiment)
        plain = call_model(Halving(model), model, trial, session.engine, experiment)
    assert (fused.model.head is not None, fused.notes(CPU)) == (True, [])
    assert plain.model.head is None
    (note,) = plain.notes(CPU)
    assert note.startswith("losses are computed from whole logits")
    assert plain.describe()["loss"].startswith("from whole logits: with this strategy")
    monkeypatch.setattr(assembling, "computes_faster_in_float32", lambda _: True)
    (slow,) = replace(fused, dtype="bfloat16", asked_dtype="bfloat16").notes(CPU)
    assert slow.startswith("this CPU has no instructions for bfloat16")
