"""The model with a score in the place of its vocabulary: transformers' own class for it, called for several sequences.

Shapes: T tokens of a forward pass, K positions whose scores are asked for.
"""

from __future__ import annotations

import math
from types import MethodType
from typing import Any

import torch

from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.trainer.api import ModelContext, load_config


def make_classifier(language_model: Any, padding_token: int | None) -> Any:
    """A model of one label on the body of `language_model`, with a new score: small, so that all rewards begin near 0.

    It is transformers' `...ForSequenceClassification`, by which a user loads it, but for the call: it gives a score at
    each position, since sequences share a row in training. Draws from torch's generator, on the CPU.
    """
    classifier, config = _empty_classifier(language_model, padding_token), language_model.config
    setattr(classifier, classifier.base_model_prefix, language_model.base_model)
    size = classifier.score.in_features
    score = torch.nn.Linear(size, 1, bias=False)
    torch.nn.init.normal_(score.weight, std=1 / math.sqrt(size + 1))
    classifier.score = score.to(language_model.device)
    classifier.config = config  # one for the whole model, as its body has it
    classifier.forward = MethodType(_score_positions, classifier)
    return classifier.train()


def _empty_classifier(language_model: Any, padding_token: int | None) -> Any:
    """Without memory of its own: only its class and its score's shape are wanted."""
    from transformers import AutoModelForSequenceClassification

    config = language_model.config
    config.num_labels, config.pad_token_id = 1, padding_token
    try:
        with torch.device("meta"):
            classifier = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise _no_classifier(language_model) from error
    body = getattr(classifier, classifier.base_model_prefix, None)
    has_score = isinstance(getattr(classifier, "score", None), torch.nn.Linear)
    if not has_score or type(body) is not type(language_model.base_model):
        raise _no_classifier(language_model)
    return classifier


def _no_classifier(language_model: Any) -> InvalidExperiment:
    message = f"transformers has no classifier with a score on the body of {type(language_model).__name__}"
    problem = Problem("model.name_or_path", message, "reward models are made of decoders such as Llama, Qwen, Gemma")
    return InvalidExperiment.from_problems("the model", [problem])


def _score_positions(
    self: Any, input_ids: torch.Tensor, logits_to_keep: torch.Tensor | None = None, **arguments: Any
) -> Any:
    """Scores (1, T, 1) of a row, or (1, K, 1) at the positions to keep. Takes the place of `forward`."""
    from transformers.modeling_outputs import TokenClassifierOutput

    arguments.pop("labels", None)  # peft passes it on, empty
    hidden_1TH = self.base_model(input_ids=input_ids, **arguments).last_hidden_state
    kept_1KH = hidden_1TH if logits_to_keep is None else hidden_1TH[:, logits_to_keep]
    return TokenClassifierOutput(logits=self.score(kept_1KH))


def padding_token_of(context: ModelContext) -> int | None:
    """The padding token of the finished model, for the experiment's."""
    reference = context.reference
    return padding_token(reference.name_or_path, reference.revision, load_config(context).pad_token_id)


def padding_token(tokenizer: str, revision: str | None, configured: int | None) -> int | None:
    """What batches for the finished model are padded with: the tokenizer's own token, else what stands in for it.

    The finished model takes the reward at the last token that is not this one: training must, too.
    """
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(tokenizer, revision=revision, trust_remote_code=False)
    candidates = (loaded.pad_token_id, configured, loaded.eos_token_id)
    return next((one for one in candidates if one is not None), None)
