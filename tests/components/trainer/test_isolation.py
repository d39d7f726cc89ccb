"""Finding out whether a model keeps conversations of one row apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from conformance.tiny_jobs import TINY_CONFIG
from tunewright.trainer.computing.isolation import keeps_sequences_apart

CPU = torch.device("cpu")


def make(attention: str = "sdpa", **changes: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(**{**TINY_CONFIG, **changes})
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention)


class WithMask(torch.nn.Module):
    """Passes a mask of ones: with it transformers lets the rows of one batch see each other."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: torch.Tensor, **arguments: Any) -> Any:
        return self.inner(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), **arguments)


class WithoutPositions(torch.nn.Module):
    """Gives every token the position it has in the row."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor, **arguments: Any) -> Any:
        return self.inner(input_ids=input_ids, **arguments)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_llama_keeps_them_apart(attention: str, dtype: torch.dtype) -> None:
    assert keeps_sequences_apart(make(attention), 128, CPU, dtype)


@pytest.mark.parametrize("std", [0.1, 0.001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_leak_is_found_also_where_weights_are_small(dtype: torch.dtype, std: float) -> None:
    assert not keeps_sequences_apart(WithMask(make(initializer_range=std)), 128, CPU, dtype)


def test_positions_that_do_not_restart_are_found() -> None:
    assert not keeps_sequences_apart(WithoutPositions(make()), 128, CPU, torch.float32)


def test_it_leaves_random_state_and_mode_as_they_were() -> None:
    model = make(attention_dropout=0.5)
    torch.manual_seed(4)
    before = torch.get_rng_state()
    keeps_sequences_apart(model, 128, CPU, torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
