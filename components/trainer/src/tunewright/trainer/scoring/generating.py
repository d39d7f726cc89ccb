"""Answers of the model, several rows at a time.

Shapes: B rows, P tokens of the longest prompt, G generated tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tunewright.contracts.experiment import EvaluateSpec
from tunewright.trainer.scoring.asking import TokenIds, cut_at_end
from tunewright.trainer.scoring.model import ScoredModel


@torch.no_grad()
def generate_answers(
    scored: ScoredModel, prompts: Sequence[TokenIds], settings: EvaluateSpec, ends: frozenset[int], pad: int, seed: int
) -> list[list[int]]:
    """The tokens that the model writes after each of `prompts`, up to the first of `ends`, which is left out.

    Prompts are padded on the left, so that all answers begin at one place. `seed` decides what is drawn, where the
    settings have a temperature. A prompt that leaves no position of the model free gets no answer.
    """
    longest = max(map(len, prompts))
    most = settings.max_new_tokens
    if scored.max_positions is not None:
        most = min(most, scored.max_positions - longest)
    if most < 1:
        return [[] for _ in prompts]
    ids_BP, mask_BP = pad_left(prompts, pad)
    torch.manual_seed(seed)
    generated = scored.model.generate(
        input_ids=ids_BP.to(scored.device),
        attention_mask=mask_BP.to(scored.device),
        generation_config=_configuration(settings, ends, pad, most),
    )
    answers_BG: list[list[int]] = generated[:, longest:].tolist()
    return [cut_at_end(answer, ends) for answer in answers_BG]


def pad_left(prompts: Sequence[TokenIds], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The prompts as one tensor (B, P) int64, and its mask (B, P) int64: 1 where there is a token."""
    longest = max(map(len, prompts))
    ids_BP = np.full((len(prompts), longest), pad, np.int64)
    mask_BP = np.zeros((len(prompts), longest), np.int64)
    for place, prompt in enumerate(prompts):
        ids_BP[place, longest - len(prompt) :] = prompt
        mask_BP[place, longest - len(prompt) :] = 1
    return torch.from_numpy(ids_BP), torch.from_numpy(mask_BP)


def _configuration(settings: EvaluateSpec, ends: frozenset[int], pad: int, most: int) -> Any:
    """How tokens are chosen: ours alone. What the model's own `generation_config.json` says does not count."""
    from transformers import GenerationConfig

    choosing: dict[str, Any] = {"do_sample": False}
    if settings.temperature > 0:
        choosing = {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
    return GenerationConfig(max_new_tokens=most, eos_token_id=sorted(ends), pad_token_id=pad, **choosing)
