"""NEFTune (https://arxiv.org/abs/2310.05914): uniform noise on the embeddings of training passes.

Shapes: T tokens of a forward pass, H entries of an embedding.
"""

from __future__ import annotations

import math
from typing import Any

import torch


class EmbeddingNoise:
    """Adds noise to what an embedding layer gives in training mode; none in evaluation mode.

    The noise of an entry is uniform in +-alpha / sqrt(L H), with L the length of the conversation that the token is
    in and not of the row, so that it does not depend on how conversations are packed. It is drawn from the process's
    own generator, whose state is in every checkpoint.
    """

    def __init__(self, embeddings: torch.nn.Module, alpha: float) -> None:
        self.alpha = alpha
        self.lengths: tuple[int, ...] = ()
        """Tokens of each conversation of the pass that comes; set before each."""

        embeddings.register_forward_hook(self._add)

    def _add(self, layer: torch.nn.Module, _arguments: Any, embedded: torch.Tensor) -> torch.Tensor | None:
        if not layer.training:
            return None
        sizes = torch.tensor([self.alpha / math.sqrt(length * embedded.shape[-1]) for length in self.lengths])
        size_T1 = sizes.repeat_interleave(torch.tensor(self.lengths))[:, None].to(embedded)
        return embedded + (torch.rand_like(embedded) * 2 - 1) * size_T1
