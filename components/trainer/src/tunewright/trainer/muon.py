"""Muon for the matrices of hidden layers with AdamW for everything else, as one optimizer.

Muon makes each step's update orthogonal (https://kellerjordan.github.io/posts/muon/), which has a meaning for hidden
matrices only: embeddings, the output's matrix and vectors are AdamW's. A matrix of A x B is changed by
0.2 * sqrt(max(A, B)) times the learning rate, so that the update is as large as AdamW's: `learning_rate` and
`weight_decay` mean the same for both (https://arxiv.org/abs/2502.16982, section 2.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.contracts.experiment import TrainingSpec


class MuonWithAdamW(torch.optim.Optimizer):
    """Several optimizers of torch that share their groups and their state: to others it is one."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self._parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Each part works on its own groups of this optimizer, and all on its state."""
        groups = iter(self.param_groups)
        for part in self._parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Called by `load_state_dict` with new groups and a new state."""
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update by each part."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss


def hidden_matrices(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The trained matrices of `model` between its embeddings and its head."""
    from transformers import PreTrainedModel

    transformer = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), model)
    body = getattr(transformer, "base_model", transformer)  # without the head
    embeddings = {
        id(parameter)
        for module in body.modules()
        if isinstance(module, torch.nn.Embedding)
        for parameter in module.parameters()
    }
    return [one for one in body.parameters() if one.requires_grad and one.ndim == 2 and id(one) not in embeddings]


def make_muon(
    matrices: list[torch.nn.Parameter], adamw: torch.optim.AdamW | None, training: TrainingSpec
) -> MuonWithAdamW:
    """Muon for `matrices`, beside `adamw` for the rest. Raises InvalidExperiment where there are no matrices."""
    if not matrices:
        message = "muon trains matrices of hidden layers; nothing that is trained is one"
        problem = Problem("training.optimizer", message, "use `adamw`")
        raise InvalidExperiment.from_problems("the optimizer", [problem])
    muon = torch.optim.Muon(
        matrices, lr=training.learning_rate, weight_decay=training.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return MuonWithAdamW([muon, adamw] if adamw is not None else [muon])
