"""Memory and time of a training, from a rehearsal and from how its strategy divides things."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tunewright.contracts.experiment import ExperimentSpec
from tunewright.trainer.computing.precision import computed_dtype
from tunewright.trainer.efficiency import peak_tflops
from tunewright.trainer.estimating.rehearsal import Rehearsal, rehearse
from tunewright.trainer.estimating.subject import Subject
from tunewright.trainer.timing import resident_bytes

_OPTIMIZER_BYTES = {"adamw": 8.0, "paged_adamw": 8.0, "adamw_8bit": 2.1, "paged_adamw_8bit": 2.1, "muon": 8.0}
"""Per trained parameter: two moments in float32, or in 8 bits with their scales."""

_MUON_BYTES = 4.0
"""Per entry of a matrix: one momentum."""

_SHARE_OF_PEAK = 0.4
"""Of a device's matrix products that a training reaches."""

_PROBE_SIZE = 1024


@dataclass(frozen=True)
class MemoryEstimate:
    """Of the process that needs most, in bytes."""

    process_bytes: int
    """Python, torch and transformers themselves."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int

    activations_bytes: int
    """What a forward and backward pass takes at its most."""

    saving_bytes: int
    """What is copied while a checkpoint or the model is written: gradients and activations are free by then."""

    loading_bytes: int
    """What is read while the model is loaded, and not kept: weights before they are compressed."""

    @property
    def peak_bytes(self) -> int:
        """The most that is needed at one time: in a step, while saving, or while loading."""
        kept = self.process_bytes + self.weights_bytes
        step = self.optimizer_bytes + self.gradients_bytes + self.activations_bytes
        return kept + max(step, self.optimizer_bytes + self.saving_bytes, self.loading_bytes)


@dataclass(frozen=True)
class Estimate:
    """What `trainer estimate` says."""

    rehearsal: Rehearsal
    memory: MemoryEstimate
    num_processes: int
    num_steps: int | None
    step_tokens: int
    step_flops: int

    device_flops_per_second: float
    """What one device is taken to reach."""

    @property
    def seconds(self) -> float | None:
        """Of training, without start and checkpoints. None where the number of steps is not known."""
        if self.num_steps is None:
            return None
        return self.num_steps * self.step_flops / (self.device_flops_per_second * self.num_processes)

    def to_document(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            **asdict(self.rehearsal),
            "memory": {**asdict(self.memory), "peak_bytes": self.memory.peak_bytes},
            "num_processes": self.num_processes,
            "num_steps": self.num_steps,
            "step_tokens": self.step_tokens,
            "step_flops": self.step_flops,
            "device_flops_per_second": self.device_flops_per_second,
            "seconds": self.seconds,
        }


def estimate(subject: Subject) -> Estimate:
    """Rehearse, and add up. Takes seconds, and little more memory than an interpreter with torch."""
    rehearsal = rehearse(subject)
    process_bytes = resident_bytes()  # by now all is imported that a training imports
    experiment = subject.experiment
    step_tokens = round(experiment.training.batch_size * subject.row_tokens)
    return Estimate(
        rehearsal=rehearsal,
        memory=memory_of(rehearsal, experiment, process_bytes),
        num_processes=experiment.num_processes,
        num_steps=subject.num_steps,
        step_tokens=step_tokens,
        step_flops=round(rehearsal.pass_flops * step_tokens / rehearsal.pass_tokens),
        device_flops_per_second=device_flops_per_second(experiment),
    )


def memory_of(rehearsal: Rehearsal, experiment: ExperimentSpec, process_bytes: int) -> MemoryEstimate:
    """What one of the experiment's processes holds: which parts a strategy divides, the README's table says."""
    training, processes = experiment.training, experiment.num_processes
    weights, gradients = rehearsal.weights_bytes, 4 * rehearsal.num_trained
    optimizer = _optimizer_bytes(rehearsal, training.optimizer)
    saving = 4 * rehearsal.num_trained
    largest = rehearsal.frozen_matrix_bytes
    if training.strategy == "ddp" and processes > 1:
        gradients *= 2  # DDP's buckets
    if training.strategy.startswith("deepspeed_"):
        optimizer += 4 * rehearsal.num_trained  # its own float32 copy of what is trained
        weights = weights // 2 if experiment.model.dtype == "bfloat16" else weights
    if training.strategy != "ddp":
        optimizer, gradients = optimizer // processes, gradients // processes
        saving //= processes
    if training.strategy in ("deepspeed_zero3", "fsdp2"):
        weights //= processes
    activations = rehearsal.activations_bytes + largest
    return MemoryEstimate(
        process_bytes, weights, gradients, optimizer, activations, saving,
        loading_bytes=2 * rehearsal.read_bytes,  # the file, mapped, and what is read from it
    )  # fmt: skip


def _optimizer_bytes(rehearsal: Rehearsal, optimizer: str) -> int:
    matrices = rehearsal.num_matrices_trained if optimizer == "muon" else 0
    others = rehearsal.num_trained - matrices
    return round(_MUON_BYTES * matrices + _OPTIMIZER_BYTES[optimizer] * others)


def device_flops_per_second(experiment: ExperimentSpec) -> float:
    """What a device reaches in training: a share of its peak, which is stated, known, or measured on this machine."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, computed_dtype(experiment.model.dtype, experiment.training.strategy, device))
    known = peak_tflops(device, dtype, experiment.training.peak_tflops)
    peak = known * 1e12 if known is not None else _measured_flops_per_second(device, dtype)
    return peak * _SHARE_OF_PEAK


def _measured_flops_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Of square matrix products: the best of a few."""
    one = torch.ones(_PROBE_SIZE, _PROBE_SIZE, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        product = one @ one
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
        del product
    return 2 * float(_PROBE_SIZE) ** 3 / best
