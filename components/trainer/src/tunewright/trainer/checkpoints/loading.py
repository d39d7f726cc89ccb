"""Putting everything back as a checkpoint has it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tunewright.contracts.errors import TunewrightError
from tunewright.trainer.checkpoints.finding import FoundCheckpoint, find_checkpoint
from tunewright.trainer.checkpoints.random_states import process_seed, restore_random_state, seed_everything
from tunewright.trainer.checkpoints.saving import COMMON_FILE, Trained, optimizer_file, tensors_file, trained_by_name
from tunewright.trainer.job import TrainingJob
from tunewright.trainer.strategies.engine import Engine


def agree_on_checkpoint(job: TrainingJob, engine: Engine) -> FoundCheckpoint | None:
    """The checkpoint to go on from, as the main process finds it, or None. Collective.

    A node has verified it before it started its processes; when it starts them again, the main process does. Raises
    CheckpointCorrupted and IntegrityError, in every process.
    """
    found: FoundCheckpoint | TunewrightError | None = None
    if engine.is_main:
        try:
            found = find_checkpoint(job, verify=num_worker_restarts() > 0)
        except TunewrightError as error:
            found = error
    agreed: FoundCheckpoint | TunewrightError | None = engine.gather_objects(found)[0]
    if isinstance(agreed, TunewrightError):
        raise agreed
    return agreed


def num_worker_restarts() -> int:
    """How often this node has started its processes again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def describe_continuation(found: FoundCheckpoint, engine: Engine) -> dict[str, Any]:
    """What the record says of the checkpoint that a run goes on from."""
    manifest = found.manifest
    processes = {"before": manifest.num_processes, "now": engine.num_processes}
    strategy = {"before": manifest.strategy, "now": engine.strategy}
    described: dict[str, Any] = {
        "checkpoint": found.path.name, "step": manifest.step, "processes": processes, "strategy": strategy,
        "worker_restarts": num_worker_restarts(),
    }  # fmt: skip
    note = continuation_note(found, engine)
    return {**described, "note": note} if note else described


def continuation_note(found: FoundCheckpoint, engine: Engine) -> str:
    """What is not as if the run had never stopped; empty where everything is."""
    return "; ".join(note for note in (_note_of_processes(found, engine), _note_of_dtype(found, engine)) if note)


def _note_of_dtype(found: FoundCheckpoint, engine: Engine) -> str:
    """A machine that computes bfloat16 itself and one that does not take turns with a run."""
    before, now = found.manifest.computed_in or engine.computed_in, engine.computed_in
    return f"computes in {now} on this machine, in {before} before: numbers differ as these do" if before != now else ""


def _note_of_processes(found: FoundCheckpoint, engine: Engine) -> str:
    before, now = found.manifest.num_processes, engine.num_processes
    if (before, found.manifest.strategy) == (now, engine.strategy):
        return ""
    drawn = f" processes from number {before} on draw their dropout anew;" if now > before else ""
    return (
        f"goes on as {engine.strategy} in {now} process{'es'[: 2 * (now > 1)]}, saved as {found.manifest.strategy} in "
        f"{before}: the same rows in the same order;{drawn} numbers differ in the last bits from an uninterrupted run's"
    )


def load_checkpoint(found: FoundCheckpoint, engine: Engine, trained: Trained) -> None:
    """Model, optimizer, schedule and random state as they were. The files were compared with their digests before.

    Collective. In more processes than wrote it, those that have no random state in it draw from one that follows from
    seed, rank and step.
    """
    load_trained(found, engine, trained.model)
    common = _load(found.path / COMMON_FILE)
    trained.scheduler.load_state_dict(common["scheduler"])
    for group, rate in zip(engine.optimizer.param_groups, trained.scheduler.get_last_lr(), strict=True):
        group["lr"] = rate
    engine.load_extra_state(common["engine"])
    if engine.rank < len(common["random"]):
        restore_random_state(common["random"][engine.rank])
    else:
        seed_everything(process_seed(engine.experiment.seed, engine.rank, found.manifest.step))


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
