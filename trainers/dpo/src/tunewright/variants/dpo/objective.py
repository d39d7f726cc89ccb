"""The losses over preference pairs.

Shapes: N trained tokens of a forward pass, S sequences, P = S / 2 pairs.
"""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from tunewright.trainer.api import (
    Batch,
    Beginning,
    LanguageModel,
    Losses,
    PairObjective,
    reward_sums,
    split_pairs,
    sums_by_sequence,
)
from tunewright.variants.dpo.options import DpoOptions
from tunewright.variants.dpo.reference import Reference


class PreferenceObjective(PairObjective):
    """The mean over all pairs of the optimizer step."""

    def __init__(self, options: DpoOptions) -> None:
        self.options = options
        self.reference = Reference()

    def begin(self, beginning: Beginning) -> None:
        """Have the starting model's log-probabilities of all answers, where the loss needs them."""
        if self.options.has_reference:
            self.reference.begin(beginning)

    def losses(self, model: LanguageModel, batch: Batch) -> Losses:
        """The summed loss of the pairs, with rewards, their margin and accuracy."""
        answers_S = sums_by_sequence(model.token_log_probabilities(batch), batch)
        if self.options.has_reference:
            answers_S = answers_S - self.reference.of(batch).to(answers_S)
        if self.options.is_by_token:
            answers_S = answers_S / answers_S.new_tensor(batch.trained_counts).clamp_min(1)
        chosen_P, rejected_P = split_pairs(answers_S)
        losses_P = pair_losses(chosen_P - rejected_P, self.options)
        beta = self.options.beta
        return Losses(losses_P.sum().float(), reward_sums(beta * chosen_P, beta * rejected_P))


def pair_losses(distance_P: torch.Tensor, options: DpoOptions) -> torch.Tensor:
    """The loss (P,) of pairs whose chosen answer is better than the rejected one by `distance_P`.

    An answer is as good as its log-probability, less the reference's but for `simpo`, a token but for `sigmoid`.

    - `sigmoid`: DPO, https://arxiv.org/abs/2305.18290, eq. 7; smoothed: https://ericmitchell.ai/cdpo.pdf
    - `norm`: length-normalized DPO, https://arxiv.org/abs/2411.15124
    - `simpo`: SimPO, https://arxiv.org/abs/2405.14734, eq. 6
    - `ipo`: IPO, https://arxiv.org/abs/2310.12036, eq. 17, by mean log-probabilities as its authors run it
    """
    scaled_P = options.beta * distance_P
    if options.loss == "ipo":
        return (distance_P - 1 / (2 * options.beta)) ** 2
    if options.loss == "simpo":
        return -logsigmoid(scaled_P - options.wanted_margin)
    smoothing = options.label_smoothing
    return -(1 - smoothing) * logsigmoid(scaled_P) - smoothing * logsigmoid(-scaled_P)
