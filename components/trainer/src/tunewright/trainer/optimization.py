"""The optimizer and the learning rate's course."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from tunewright.contracts.experiment import TrainingSpec
from tunewright.trainer.lean_imports import import_bitsandbytes
from tunewright.trainer.muon import hidden_matrices, make_muon

_Groups = list[dict[str, Any]]


def trained_parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that require a gradient, in the model's order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def make_optimizer(model: torch.nn.Module, training: TrainingSpec) -> torch.optim.Optimizer:
    """The experiment's optimizer of all that is trained. Raises InvalidExperiment where it has nothing to work on."""
    parameters = trained_parameters(model)
    if training.optimizer == "adamw":
        return make_adamw(parameters, training)
    if training.optimizer != "muon":
        return _make_bitsandbytes(model, parameters, training)
    matrices = hidden_matrices(model)
    taken = set(map(id, matrices))
    others = [parameter for parameter in parameters if id(parameter) not in taken]
    return make_muon(matrices, make_adamw(others, training) if others else None, training)


def decay_groups(parameters: list[torch.nn.Parameter], weight_decay: float) -> _Groups:
    """Vectors (biases, norms) do not decay: pulling them to zero is no regularization."""
    groups: _Groups = [
        {"params": [one for one in parameters if one.ndim >= 2], "weight_decay": weight_decay},
        {"params": [one for one in parameters if one.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_adamw(parameters: list[torch.nn.Parameter], training: TrainingSpec) -> torch.optim.AdamW:
    """torch's AdamW: one kernel for everything on a GPU. On a CPU that gains nothing."""
    return torch.optim.AdamW(
        decay_groups(parameters, training.weight_decay),
        lr=training.learning_rate,
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_epsilon,
        fused=parameters[0].is_cuda,
    )


def _make_bitsandbytes(
    model: torch.nn.Module, parameters: list[torch.nn.Parameter], training: TrainingSpec
) -> torch.optim.Optimizer:
    """AdamW of bitsandbytes: moments in 8 bits, or in pages that move to the host where a GPU's memory is short."""
    import_bitsandbytes()
    from bitsandbytes import optim

    # On a CPU the pages are where they would move to: the fallback is no news to the user.
    warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
    names = {"adamw_8bit": "AdamW8bit", "paged_adamw": "PagedAdamW", "paged_adamw_8bit": "PagedAdamW8bit"}
    optimizer: torch.optim.Optimizer = getattr(optim, names[training.optimizer])(
        decay_groups(parameters, training.weight_decay),
        lr=training.learning_rate,
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_epsilon,
    )
    _keep_embeddings_exact(optimizer, model)
    return optimizer


def _keep_embeddings_exact(optimizer: Any, model: torch.nn.Module) -> None:
    """Moments of embeddings stay in 32 bits, as bitsandbytes advises: their gradients are uneven.

    bitsandbytes keeps such wishes in one place for the whole process, by the addresses of parameters: an optimizer of
    an earlier training would decide for this one. So this one gets a place of its own.
    """
    from bitsandbytes.optim import GlobalOptimManager

    manager: Any = object.__new__(GlobalOptimManager)
    manager.initialize()
    embeddings = [module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    manager.override_config(embeddings, "optim_bits", 32)
    optimizer.mng = manager


def restore_state(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter, state: Mapping[str, Any]) -> None:
    """Give `optimizer` what it kept of `parameter`: moments beside it, counters where they were, pages as pages."""
    if not getattr(optimizer, "is_paged", False):
        # torch keeps a counter on the CPU, but for fused kernels.
        fused = any(group.get("fused") for group in optimizer.param_groups)
        optimizer.state[parameter] = {
            name: value.to(parameter.device) if isinstance(value, torch.Tensor) and (value.ndim or fused) else value
            for name, value in state.items()
        }
        return
    _start_state(optimizer, parameter)
    kept = optimizer.state[parameter]
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            kept[name].copy_(value)
        else:
            kept[name] = value


def _start_state(optimizer: Any, parameter: torch.nn.Parameter) -> None:
    """Let a paged optimizer of bitsandbytes make the state of `parameter` where it wants it."""
    for group_index, group in enumerate(optimizer.param_groups):
        for index, one in enumerate(group["params"]):
            if one is parameter:
                optimizer.init_state(group, parameter, group_index, index)
    if parameter.is_cuda:
        torch.cuda.synchronize(parameter.device)  # the pages are filled by then: what is written now stays


def warmup_steps(training: TrainingSpec, max_steps: int) -> int:
    """Optimizer steps over which the learning rate rises."""
    return math.ceil(training.warmup_ratio * max_steps)


def make_scheduler(optimizer: torch.optim.Optimizer, training: TrainingSpec, max_steps: int) -> Any:
    """The learning rate's course over `max_steps` steps, as transformers has it."""
    import_bitsandbytes()
    from transformers import get_scheduler  # it imports peft

    warmup = warmup_steps(training, max_steps)
    # transformers' `constant` would leave the warm-up out without a word.
    name = "constant_with_warmup" if training.lr_scheduler == "constant" and warmup else training.lr_scheduler
    return get_scheduler(
        name,
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=max_steps,
        scheduler_specific_kwargs=_scheduler_options(training, max_steps, warmup),
    )


def _scheduler_options(training: TrainingSpec, max_steps: int, warmup: int) -> dict[str, Any]:
    """What transformers' schedule takes besides."""
    ratio = training.min_learning_rate_ratio
    if training.lr_scheduler == "cosine_with_min_lr":
        return {"min_lr_rate": ratio}
    if training.lr_scheduler == "warmup_stable_decay":
        decay = min(math.ceil(training.decay_ratio * max_steps), max_steps - warmup)
        return {"num_decay_steps": decay, "min_lr_ratio": ratio}
    return {}
