"""Seeds, and the state of every random generator a run may draw from."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int, rank: int) -> dict[str, int]:
    """Seed Python, NumPy and torch. Ranks draw differently (dropout); rank 0's seed is the experiment's."""
    own = (seed + rank) % 2**32
    random.seed(own)
    np.random.seed(own)
    torch.manual_seed(own)
    return {"experiment": seed, "python": own, "numpy": own, "torch": own}


def be_deterministic(on_gpu: bool) -> dict[str, Any]:
    """Ask torch for algorithms that give the same bits every time; on a GPU where it has them. Gives what was set."""
    if on_gpu:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=on_gpu)
    return {
        "use_deterministic_algorithms": True,
        "warn_only": on_gpu,
        "num_threads": torch.get_num_threads(),
        "not_deterministic": ["GPU kernels without a deterministic form"] if on_gpu else [],
    }


def random_state() -> dict[str, Any]:
    """The state of every generator, in types that `torch.load(weights_only=True)` takes."""
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": (version, tuple(numbers), gauss),
        "numpy": (str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(cached)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Go on drawing where `random_state` was taken."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
