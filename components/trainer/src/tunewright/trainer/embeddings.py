"""Growing a model's embeddings to its tokenizer's size, where the experiment asks for that.

New rows are the mean of the old ones, exactly: a token that was never seen begins as the average token, in the input
and in the output (https://nlp.stanford.edu/~johnhew/vocab-expansion.html). Nothing is drawn.
"""

from __future__ import annotations

from typing import Any

import torch

from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.contracts.experiment import ModelSpec

_KEY = "model.resize_embeddings"


def rows_wanted(num_rows: int, vocabulary_size: int, spec: ModelSpec) -> int:
    """The rows that embeddings of `num_rows` rows are to have for a tokenizer of `vocabulary_size` tokens.

    A pure function. Embeddings are never made smaller. Raises InvalidExperiment where they must not be made larger.
    """
    if vocabulary_size <= num_rows:
        return num_rows
    if spec.resize_embeddings == "never":
        message = f"its tokenizer gives {vocabulary_size} different tokens, the model has embeddings for {num_rows}"
        hint = f'`{_KEY} = "when_needed"` adds rows for them, which variant `full` trains'
        raise InvalidExperiment.from_problems("the model", [Problem("model.name_or_path", message, hint)])
    multiple = spec.pad_embeddings_to_multiple_of or 1
    return -(-vocabulary_size // multiple) * multiple


def grow_embeddings(model: Any, vocabulary_size: int, spec: ModelSpec) -> bool:
    """Give `model` (a PreTrainedModel) the rows it needs, in input, output and configuration. Gives whether it grew."""
    old = int(model.get_input_embeddings().num_embeddings)
    new = rows_wanted(old, vocabulary_size, spec)
    if new == old:
        return False
    # transformers would draw the new rows, from a normal distribution around the mean.
    model.resize_token_embeddings(new, mean_resizing=False)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        if layer is not None:
            _fill_with_mean(layer, old)
    return True


@torch.no_grad()
def _fill_with_mean(layer: Any, num_old: int) -> None:
    """Set the rows from `num_old` on of weight (V, H) and bias (V,) to the mean of those before."""
    for weight in (layer.weight, getattr(layer, "bias", None)):
        if weight is not None:
            weight[num_old:] = weight[:num_old].mean(dim=0)


def refuse_frozen_embeddings(transformer: Any) -> None:
    """Raise InvalidExperiment where the rows that were added would stay as they are: all would be the same token."""
    layers = {"input": transformer.get_input_embeddings(), "output": transformer.get_output_embeddings()}
    frozen = [name for name, layer in layers.items() if layer is not None and not layer.weight.requires_grad]
    if frozen:
        names = " and no ".join(frozen)
        message = f"this variant trains no {names} embeddings: rows added to them would stay as they are"
        hint = "train with variant `full` first, and put adapters on the model it leaves; or take another tokenizer"
        raise InvalidExperiment.from_problems("the model", [Problem(_KEY, message, hint)])
