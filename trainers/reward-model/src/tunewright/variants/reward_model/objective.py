"""The Bradley-Terry loss: the chosen answer's reward above the rejected one's.

Shapes: T tokens of a forward pass, S sequences, P = S / 2 pairs.
"""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from tunewright.trainer.api import Batch, LanguageModel, Losses, PairObjective, reward_sums, split_pairs
from tunewright.variants.reward_model.options import RewardModelOptions


class BradleyTerry(PairObjective):
    """The mean over all pairs of the optimizer step."""

    def __init__(self, options: RewardModelOptions, padding_token: int | None) -> None:
        self.options, self.padding_token = options, padding_token

    def losses(self, model: LanguageModel, batch: Batch) -> Losses:
        """The summed loss of the pairs, with rewards, their margin and accuracy."""
        positions_S = scored_positions(batch, self.padding_token)
        rewards_S = model.logits(batch, logits_to_keep=positions_S)[:, 0].float()
        chosen_P, rejected_P = split_pairs(rewards_S)
        losses_P = pair_losses(chosen_P, rejected_P, self.options)
        return Losses(losses_P.sum(), reward_sums(chosen_P, rejected_P))


def pair_losses(chosen_P: torch.Tensor, rejected_P: torch.Tensor, options: RewardModelOptions) -> torch.Tensor:
    """The loss (P,) of pairs by their rewards: https://arxiv.org/abs/2307.09288, eq. 2; centered: arXiv 2312.09244."""
    ranking_P = -logsigmoid(chosen_P - rejected_P - options.margin)
    return ranking_P + options.center_rewards_coefficient * (chosen_P + rejected_P) ** 2


def scored_positions(batch: Batch, padding_token: int | None) -> torch.Tensor:
    """Where the reward of each sequence (S,) is: at its last token that is not padding, as transformers takes it.

    That is not the last token where the tokenizer pads with the token that ends conversations.
    """
    ids_T = batch.input_ids[0]
    places_T = torch.arange(len(ids_T), device=ids_T.device)
    if padding_token is not None:
        # Of a sequence of padding alone, which no template makes, transformers takes the first token.
        starts_T = places_T - batch.position_ids[0]
        places_T = torch.where(ids_T == padding_token, starts_T, places_T)
    return torch.stack([part.max() for part in torch.split(places_T, list(batch.lengths))])
