"""Seeds, determinism flags, and the state of every random generator a process has."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import torch


def set_determinism(deterministic: bool, on_gpu: bool) -> None:
    """Ask torch for the same bits from the same inputs, or let it choose the fastest kernels.

    On a GPU, kernels that have no deterministic form only warn.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic, warn_only=on_gpu)
    torch.backends.cudnn.benchmark = not deterministic


def process_seed(seed: int, rank: int, step: int = 0) -> int:
    """The seed of what process `rank` draws while it trains (dropout): another one in each process.

    `step` is the step after which the process joined the run.
    """
    words = [seed, rank, step] if step else [seed, rank]
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators, those of all GPUs included."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """The state of all of them, as plain values and tensors: it is read again without running any code."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), [float(one) for one in rest]),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` gave."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, (position, has_gauss, cached) = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), int(position), int(has_gauss), cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
