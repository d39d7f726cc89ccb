"""The optimizer and the learning rate's course."""

from __future__ import annotations

import math
from typing import Any

import torch

from tunewright.contracts.experiment import TrainingSpec


def trained_parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that require a gradient, in the model's order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def make_optimizer(model: torch.nn.Module, training: TrainingSpec) -> torch.optim.AdamW:
    """AdamW. Vectors (biases, norms) do not decay: pulling them to zero is no regularization."""
    parameters = trained_parameters(model)
    groups = [
        {"params": [one for one in parameters if one.ndim >= 2], "weight_decay": training.weight_decay},
        {"params": [one for one in parameters if one.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=training.learning_rate,
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_epsilon,
        fused=parameters[0].is_cuda,
    )


def warmup_steps(training: TrainingSpec, max_steps: int) -> int:
    """Optimizer steps over which the learning rate rises."""
    return math.ceil(training.warmup_ratio * max_steps)


def make_scheduler(optimizer: torch.optim.Optimizer, training: TrainingSpec, max_steps: int) -> Any:
    """The learning rate's course over `max_steps` steps, as transformers has it."""
    from transformers import get_scheduler

    warmup = warmup_steps(training, max_steps)
    # transformers' `constant` would leave the warm-up out without a word.
    name = "constant_with_warmup" if training.lr_scheduler == "constant" and warmup else training.lr_scheduler
    return get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=max_steps)
