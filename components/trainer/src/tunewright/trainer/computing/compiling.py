"""torch.compile, layer by layer: names, hooks and checkpoints stay as they are, and equal layers are compiled once."""

from __future__ import annotations

from typing import Any

from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.trainer.computing.segment_attention import keep_out_of_compiled_code


def compile_layers(transformer: Any) -> int:
    """Let torch compile each layer of `transformer` when it is first called, for any number of tokens.

    Gives how many there are. Raises InvalidExperiment for a model whose layers are not known.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in transformer.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        message = f"the layers of {type(transformer).__name__} are not known to transformers as such"
        raise InvalidExperiment.from_problems("the model", [Problem("training.compile", message, "leave it out")])
    keep_out_of_compiled_code()
    for layer in layers:
        layer.compile(dynamic=True)
    return len(layers)
