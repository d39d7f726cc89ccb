"""Optimizer and schedule, as the experiment says."""

from __future__ import annotations

import math
from typing import Any

import torch

from tunewright.contracts.experiment import TrainingSpec


def trained_parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that learn, in the model's order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def make_optimizer(model: torch.nn.Module, training: TrainingSpec) -> torch.optim.AdamW:
    """AdamW; biases and norms, which have one dimension, do not decay."""
    parameters = trained_parameters(model)
    groups = [
        {"params": [one for one in parameters if one.ndim > 1], "weight_decay": training.weight_decay},
        {"params": [one for one in parameters if one.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=training.learning_rate,
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_epsilon,
    )


def make_schedule(optimizer: torch.optim.Optimizer, training: TrainingSpec, num_steps: int) -> Any:
    """transformers' schedule of that name; warm-up is rounded up to whole steps."""
    from transformers import get_scheduler

    warmup_steps = math.ceil(training.warmup_ratio * num_steps)
    return get_scheduler(training.lr_scheduler, optimizer, num_warmup_steps=warmup_steps, num_training_steps=num_steps)
