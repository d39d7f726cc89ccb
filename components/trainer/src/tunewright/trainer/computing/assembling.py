"""From the model a variant made to the one the trainer calls: what is fused, compiled and added, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from tunewright.contracts.experiment import ExperimentSpec
from tunewright.trainer.batches import Batch, make_batch
from tunewright.trainer.computing.compiling import compile_layers
from tunewright.trainer.computing.embedding_noise import EmbeddingNoise
from tunewright.trainer.computing.language_model import LanguageModel, takes_positions_to_keep
from tunewright.trainer.computing.loss_head import LossHead, find_loss_head
from tunewright.trainer.computing.precision import computes_faster_in_float32
from tunewright.trainer.dataset import TokenSequence
from tunewright.trainer.efficiency import ModelCost, cost_of, peak_tflops
from tunewright.trainer.model_loading import ModelContext
from tunewright.trainer.strategies.engine import Engine

_OTHER_LOSS = "with this strategy it gives another loss than its logits do"
_RELATIVE_TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 1e-2}


@dataclass(frozen=True)
class ModelTrial:
    """What was found out about a model before a strategy wrapped it."""

    head: LossHead | None
    why_logits: str
    """Why there is no `head`; empty where there is one, and where the model has no logits of tokens."""

    cost: ModelCost


@dataclass(frozen=True)
class ModelAsCalled:
    """The model as the trainer calls it, and what is known of that."""

    model: LanguageModel
    cost: ModelCost
    peak_tflops: float | None
    """Of one device, as assumed for `mfu`."""

    attention: str
    """As transformers calls it."""

    why_logits: str
    compiled_layers: int
    asked_dtype: str
    """`model.dtype`."""

    dtype: str
    """What is computed in (`computing/precision.py`)."""

    def describe(self) -> dict[str, Any]:
        """For the record."""
        return {
            "attention": self.attention,
            "loss": f"from whole logits: {self.why_logits}" if self.why_logits else "fused with the output layer",
            "compiled_layers": self.compiled_layers,
            "dtype": {"asked": self.asked_dtype, "computed": self.dtype},
            "peak_tflops": self.peak_tflops,
        }

    def notes(self, device: torch.device) -> list[str]:
        """What a user should know of it."""
        notes = []
        if self.why_logits:
            notes.append(f"losses are computed from whole logits, which takes memory: {self.why_logits}")
        if self.dtype != self.asked_dtype:
            notes.append(f"this CPU has no instructions for {self.asked_dtype}: {self.dtype} is many times faster here")
        elif self.dtype == "bfloat16" and computes_faster_in_float32(device):
            notes.append("this CPU has no instructions for bfloat16: model.dtype = `float32` is many times faster here")
        return notes


def try_model(model: torch.nn.Module, transformer: Any, context: ModelContext) -> ModelTrial:
    """Look at `model`, and the transformers model `transformer` in it, as the variant made it: whole, on one device."""
    cost = cost_of(model, transformer)
    if transformer.get_output_embeddings() is None:
        return ModelTrial(None, "", cost)
    head, reason = find_loss_head(model, transformer, context.device, context.dtype)
    return ModelTrial(head, reason, cost)


def call_model(
    wrapped: Any, transformer: Any, trial: ModelTrial, engine: Engine, experiment: ExperimentSpec
) -> ModelAsCalled:
    """The model that the strategy wrapped, ready to be called. Collective. Draws no random number."""
    training = experiment.training
    compiled = compile_layers(transformer) if training.compile else 0
    model = LanguageModel(wrapped, takes_positions_to_keep(transformer), training.label_smoothing, trial.head)
    why_logits = trial.why_logits
    if trial.head is not None and not _gives_same_loss(model, transformer, engine, engine.computed_in):
        model, why_logits = replace(model, head=None), _OTHER_LOSS
    if training.neftune_noise_alpha:
        model.noise = EmbeddingNoise(transformer.get_input_embeddings(), training.neftune_noise_alpha)
    asked, dtype = experiment.model.dtype, engine.computed_in
    peak = peak_tflops(engine.device, getattr(torch, dtype), training.peak_tflops)
    attention = str(transformer.config._attn_implementation)
    return ModelAsCalled(model, trial.cost, peak, attention, why_logits, compiled, asked, dtype)


@torch.no_grad()
def _gives_same_loss(model: LanguageModel, transformer: Any, engine: Engine, dtype: str) -> bool:
    """Whether the fused loss is that of the logits, in every process. Leaves the model in training mode."""
    batch = _tried_batch(transformer.config.get_text_config().vocab_size).to(engine.device)
    model.wrapped.eval()
    try:
        fused, plain = model.summed_cross_entropy(batch), replace(model, head=None).summed_cross_entropy(batch)
    finally:
        model.wrapped.train()
    differs = bool((fused - plain).abs() > _RELATIVE_TOLERANCE[dtype] * plain.abs())
    return engine.sum_over_processes(float(differs)) == 0


def _tried_batch(vocabulary_size: int) -> Batch:
    ids = np.random.default_rng(0).integers(0, vocabulary_size, 12)
    return make_batch([TokenSequence(ids, np.array([3, 12]))])
