"""Putting everything back as a checkpoint has it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tunewright.trainer.checkpoints.finding import FoundCheckpoint
from tunewright.trainer.checkpoints.random_states import restore_random_state
from tunewright.trainer.checkpoints.saving import COMMON_FILE, Trained, optimizer_file, tensors_file, trained_by_name
from tunewright.trainer.strategies.engine import Engine


def load_checkpoint(found: FoundCheckpoint, engine: Engine, trained: Trained) -> None:
    """Model, optimizer, schedule and random state as they were. The files were compared with their digests before.

    Collective. In another number of processes than wrote it, a process without a random state of its own keeps the
    one it has.
    """
    load_trained(found, engine, trained.model)
    common = _load(found.path / COMMON_FILE)
    trained.scheduler.load_state_dict(common["scheduler"])
    for group, rate in zip(engine.optimizer.param_groups, trained.scheduler.get_last_lr(), strict=True):
        group["lr"] = rate
    engine.load_extra_state(common["engine"])
    if found.manifest.num_processes == engine.num_processes:
        restore_random_state(common["random"][engine.rank])


def load_trained(found: FoundCheckpoint, engine: Engine, model: torch.nn.Module) -> None:
    """Parameters and what the optimizer keeps of them. Every file is read by every process, a share at a time."""
    parameters = trained_by_name(model)
    left = set(parameters)
    for tensors, states in _shares(found):
        for name, tensor in tensors.items():
            engine.set_whole(parameters[name], tensor)
            engine.set_optimizer_state(parameters[name], states[name])
            left.remove(name)
    assert not left, f"the checkpoint lacks {sorted(left)[:5]}"


def trained_tensors(path: Path, num_processes: int) -> dict[str, torch.Tensor]:
    """The trained parameters of the checkpoint at `path`, whole, by name."""
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = {}
    for rank in range(num_processes):
        tensors |= load_file(path / tensors_file(rank, num_processes))
    return tensors


def _shares(found: FoundCheckpoint) -> Iterator[tuple[dict[str, torch.Tensor], dict[str, dict[str, Any]]]]:
    from safetensors.torch import load_file

    count = found.manifest.num_processes
    for rank in range(count):
        tensors = load_file(found.path / tensors_file(rank, count))
        yield tensors, _load(found.path / optimizer_file(rank, count))


def _load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)
