"""Attention inside each conversation of a row: the same numbers as apart, and as transformers' own attention."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function

from conformance.tiny_jobs import TINY_CONFIG
from tunewright.trainer.computing import segment_attention as attending
from tunewright.trainer.computing.isolation import keeps_sequences_apart
from tunewright.trainer.computing.segment_attention import (
    NAME,
    causal_lengths,
    segment_attention,
    use_segments,
    whole_mask,
)

CPU = torch.device("cpu")
LENGTHS = (7, 1, 30, 12)


def make(segments: bool = True, attention: str = "sdpa", **changes: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(**{**TINY_CONFIG, **changes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    assert use_segments(model) is segments if segments else True
    return model


def make_row(lengths: tuple[int, ...] = LENGTHS) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and positions (1, T) of a packed row."""
    ids = torch.randint(0, 128, (1, sum(lengths)), generator=torch.Generator().manual_seed(1))
    return ids, torch.cat([torch.arange(length) for length in lengths])[None]


def logits_and_gradients(model: Any, ids: torch.Tensor, **arguments: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    logits = model(input_ids=ids, use_cache=False, **arguments).logits
    logits.square().sum().backward()
    return logits.detach(), [one.grad for one in model.parameters()]


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest, in parts of the largest value."""
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("kind", [{}, {"num_key_value_heads": 4}, {"model_type": "qwen2"}, {"model_type": "mistral"}])
def test_logits_and_gradients_are_those_of_separate_sequences_and_of_sdpa(kind: dict[str, Any]) -> None:
    ids, positions = make_row()
    ours, gradients = logits_and_gradients(make(**kind), ids, position_ids=positions)
    theirs, expected = logits_and_gradients(make(segments=False, **kind), ids, position_ids=positions)
    apart = make(segments=False, **kind)
    parts = torch.split(ids, list(LENGTHS), dim=1)
    alone = torch.cat([apart(input_ids=one, use_cache=False).logits for one in parts], dim=1)
    assert difference(ours, theirs) <= 1e-6
    assert difference(ours, alone) <= 1e-6
    assert all(difference(one, other) <= 2e-6 for one, other in zip(gradients, expected, strict=True))


def test_a_packed_row_is_computed_segment_by_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = torch.nn.functional.scaled_dot_product_attention

    def note(query: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        seen.append(query.shape[2])
        return real(query, *arguments, **options)

    monkeypatch.setattr(attending, "attend", note)
    ids, positions = make_row()
    make()(input_ids=ids, position_ids=positions, use_cache=False)
    assert seen == [*LENGTHS, *LENGTHS]  # two layers


def test_activation_checkpointing_keeps_the_segments() -> None:
    ids, positions = make_row()
    _, expected = logits_and_gradients(make(), ids, position_ids=positions)
    model = make()
    model.activation_checkpointing_enable()
    _, gradients = logits_and_gradients(model.train(), ids, position_ids=positions)
    assert all(torch.equal(one, other) for one, other in zip(gradients, expected, strict=True))


def test_the_isolation_check_passes_on_it_in_both_precisions() -> None:
    assert keeps_sequences_apart(make(), 128, CPU, torch.float32)
    assert keeps_sequences_apart(make(), 128, CPU, torch.bfloat16)


@pytest.mark.parametrize("window", [5, 64])
def test_a_sliding_window_gives_what_it_gives_with_sdpa(window: int) -> None:
    kind: dict[str, Any] = {"model_type": "mistral", "sliding_window": window}
    ids, positions = make_row()
    with torch.no_grad():
        ours = make(**kind)(input_ids=ids, position_ids=positions, use_cache=False).logits
        theirs = make(segments=False, **kind)(input_ids=ids, position_ids=positions, use_cache=False).logits
    assert difference(ours, theirs) <= 1e-6


def test_padding_and_generation_are_left_to_transformers() -> None:
    ids, _ = make_row((9, 9))
    batch, mask = ids.reshape(2, 9), torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1], [1] * 9])
    ours, theirs = make(), make(segments=False)
    with torch.no_grad():
        assert torch.equal(
            ours(input_ids=batch, attention_mask=mask).logits, theirs(input_ids=batch, attention_mask=mask).logits
        )
    one = ours.generate(batch, attention_mask=mask, max_new_tokens=4, do_sample=False)
    assert torch.equal(one, theirs.generate(batch, attention_mask=mask, max_new_tokens=4, do_sample=False))


def test_dropout_of_attention_is_applied_in_training_only() -> None:
    ids, positions = make_row()
    model = make(attention_dropout=0.5)

    def logits() -> torch.Tensor:
        torch.manual_seed(3)
        result: torch.Tensor = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        return result

    assert torch.equal(model.train() and logits(), logits())
    assert not torch.allclose(logits(), model.eval() and logits())


def test_models_of_another_attention_are_left_alone() -> None:
    model = make(segments=False, attention="eager")
    assert not use_segments(model)
    assert model.config._attn_implementation == "eager"


def test_a_saved_model_does_not_name_our_attention(tmp_path: Any) -> None:
    make().save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text()


def packed(function: Any, lengths: tuple[int, ...]) -> Any:
    """`function` inside each of the sequences, which do not see each other."""
    number = torch.tensor([index for index, length in enumerate(lengths) for _ in range(length)])
    start = torch.tensor([end - length for length, end in zip(lengths, accumulate(lengths), strict=True)])[number]

    def mask(batch: Any, head: Any, query: Any, key: Any) -> Any:
        return (number[query] == number[key]) & function(batch, head, query - start[query], key - start[key])

    return mask


def test_lengths_are_read_off_a_causal_mask_and_off_no_other() -> None:
    total = sum(LENGTHS)
    assert causal_lengths(packed(causal_mask_function, LENGTHS), total, CPU) == list(LENGTHS)
    assert causal_lengths(packed(sliding_window_causal_mask_function(30), LENGTHS), total, CPU) == list(LENGTHS)
    assert causal_lengths(packed(sliding_window_causal_mask_function(29), LENGTHS), total, CPU) == []
    assert causal_lengths(packed(lambda *_: torch.ones((), dtype=torch.bool), LENGTHS), total, CPU) == []
    leaky = packed(causal_mask_function, LENGTHS)
    assert causal_lengths(lambda b, h, q, k: leaky(b, h, q, k) | ((q == 20) & (k == 7)), total, CPU) == []


def test_a_bias_by_position_is_added_within_the_segments() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 10, 4, generator=generator) for _ in range(3))
    bias, lengths, module = torch.randn(1, 2, 10, 10, generator=generator), torch.tensor([3, 7]), torch.nn.Module()
    ours, _ = segment_attention(module, query, key, value, lengths[None, None, None], position_bias=bias)
    scores = (query @ key.transpose(-1, -2) * 4**-0.5 + bias).masked_fill(~whole_mask(lengths), float("-inf"))
    assert difference(ours, (scores.softmax(-1) @ value).transpose(1, 2)) <= 1e-6
    assert whole_mask(lengths)[0, 0].sum() == 3 * 4 / 2 + 7 * 8 / 2
