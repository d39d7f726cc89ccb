"""A forward and backward pass on tensors without contents: exact in shapes, free of memory, on any model.

What is not rehearsed is told where it is added: see `estimate.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunewright.trainer.api import ModelContext, TrainerVariant, dtype_named
from tunewright.trainer.computing.loss_head import LossHead
from tunewright.trainer.computing.precision import computed_dtype
from tunewright.trainer.estimating.live_memory import LiveMemory
from tunewright.trainer.estimating.subject import Subject
from tunewright.trainer.session import hush_libraries, transformer_of


@dataclass(frozen=True)
class Rehearsal:
    """What one process would hold and do. Sizes are of a whole model, before a strategy cuts it in pieces."""

    num_parameters: int
    num_trained: int

    weights_bytes: int
    """All weights, as the variant stores them."""

    read_bytes: int
    """Weights that are stored compressed, as they are read: in memory together with the rest while they are loaded."""

    frozen_matrix_bytes: int
    """The largest weight that is stored compressed, whole in the precision it is multiplied in."""

    activations_bytes: int
    """What a forward and backward pass takes at its most, beyond weights and gradients."""

    num_matrices_trained: int
    """Trained parameters with two dimensions, entries of all of them."""

    pass_flops: int
    """Floating-point operations of that pass."""

    pass_tokens: int


def rehearse(subject: Subject) -> Rehearsal:
    """Build the model and run the largest forward and backward pass of a step. Raises what a run would."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    hush_libraries()
    training = subject.experiment.training
    dtype = _computed_dtype(subject)
    tokens = max(2, subject.longest_row_tokens * training.micro_batch_size)
    variant: Any = subject.make_variant()
    model = _build(variant, subject)
    # Asked before the parameters are replaced by those that the rehearsal is made with.
    stored = {name: variant.weight_bytes(name, parameter) for name, parameter in model.named_parameters()}
    with FakeTensorMode(), LiveMemory() as memory:
        model._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))
        parameters = dict(model.named_parameters())
        trained = [one for one in parameters.values() if one.requires_grad]
        before = memory.live_bytes
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        gradients = memory.live_bytes - before
        memory.peak_bytes = memory.live_bytes
        with FlopCounterMode(display=False) as flops:
            _run(model, dtype, tokens, max(1, round(tokens * subject.trained_share)))
        peak = memory.peak_bytes
    compressed = [one.numel() for name, one in parameters.items() if stored[name] < one.numel() * one.element_size()]
    read = sum(one.numel() * one.element_size() for one in parameters.values() if not one.requires_grad)
    return Rehearsal(
        num_parameters=sum(one.numel() for one in parameters.values()),
        num_trained=sum(one.numel() for one in trained),
        weights_bytes=sum(stored.values()),
        read_bytes=read if compressed else 0,
        frozen_matrix_bytes=max(compressed, default=0) * dtype.itemsize,
        activations_bytes=peak - before - gradients,
        num_matrices_trained=sum(one.numel() for one in trained if one.ndim == 2),
        pass_flops=int(flops.get_total_flops()),
        pass_tokens=tokens,
    )


def _computed_dtype(subject: Subject) -> torch.dtype:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return dtype_named(computed_dtype(subject.experiment.model.dtype, subject.experiment.training.strategy, device))


def _build(variant: TrainerVariant, subject: Subject) -> Any:
    context = ModelContext(
        subject.experiment.model, subject.model, subject.experiment.seed, torch.device("meta"), Path(),
        without_weights=True,
    )  # fmt: skip
    with torch.device("meta"):
        prepared = variant.prepare_model(variant.load_model(context), context)
    transformer = transformer_of(prepared)
    if transformer.config._attn_implementation != "eager":
        # Segments are found by looking at positions, which have no contents here; SDPA's memory is the same.
        transformer.set_attn_implementation("sdpa")
    if subject.experiment.training.activation_checkpointing:
        transformer.activation_checkpointing_enable()
    return prepared.train()


def _run(model: Any, dtype: torch.dtype, tokens: int, trained_tokens: int) -> None:
    """The loss of one conversation as long as the pass, and its gradients."""
    ids, kept = torch.zeros(1, tokens, dtype=torch.int64), torch.zeros(trained_tokens, dtype=torch.int64)
    output = transformer_of(model).get_output_embeddings()
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        if type(output) is torch.nn.Linear:
            with LossHead(output).summing(kept, 0.0, kept):
                loss = model(input_ids=ids, use_cache=False).logits.sum()
        else:
            loss = model(input_ids=ids, use_cache=False).logits.float().logsumexp(-1).sum()
    loss.backward()
