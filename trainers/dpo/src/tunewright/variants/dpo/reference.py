"""The reference of DPO: log-probabilities of all answers by the model as it starts, computed once.

With adapters that is the model beneath them: they start as nothing. S sequences of a forward pass.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunewright.contracts.errors import TrainingDiverged
from tunewright.contracts.files import sha256_of_tree
from tunewright.trainer.api import Batch, Beginning, TokenDataset, make_batch, sums_by_sequence
from tunewright.variants.dpo.reference_cache import FORMAT_VERSION, LogProbabilities, ReferenceCache

# What of `[model]` says where the model is, and not what it computes: that is its digest's to say.
_PLACES = ("name_or_path", "revision", "chat_template")


class Reference:
    """The log-probabilities by sequence number, over all datasets of the run."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, LogProbabilities]] = []

    def begin(self, beginning: Beginning) -> None:
        """Take those of the training's dataset, and of the evaluation's, from the cache or the model."""
        self._add(beginning, beginning.dataset, beginning.dataset_digest)
        if beginning.evaluation_dataset is not None and beginning.evaluation_dataset_digest is not None:
            self._add(beginning, beginning.evaluation_dataset, beginning.evaluation_dataset_digest)

    def of(self, batch: Batch) -> torch.Tensor:
        """The log-probabilities (S,) of the batch's answers, float64, on the CPU."""
        return torch.tensor([self._of(number) for number in batch.sequences], dtype=torch.float64)

    def _add(self, beginning: Beginning, dataset: TokenDataset, digest: str) -> None:
        self._parts.append((dataset.first_number, find_reference(beginning, dataset, digest)))

    def _of(self, number: int) -> float:
        first, values = next(part for part in reversed(self._parts) if part[0] <= number)
        return float(values[number - first])


def find_reference(beginning: Beginning, dataset: TokenDataset, dataset_digest: str) -> LogProbabilities:
    """The log-probability of each sequence's trained tokens, float64: from the cache, or computed and put there."""
    is_main = beginning.rank == 0
    cache = ReferenceCache((beginning.cache_root, beginning.run_dir), beginning.say) if is_main else None
    # The others wait for what the main process has found: only it reads and writes.
    key = reference_key(beginning, dataset_digest) if is_main else {}
    found: LogProbabilities | None = beginning.gather(cache.read(key) if cache else None)[0]
    if found is not None:
        return found
    started = time.monotonic()
    computed = compute_reference(beginning, dataset)
    beginning.say(f"reference: computed for {len(computed):,} answers in {time.monotonic() - started:.1f} s")
    if cache:
        cache.write(key, computed)
    return computed


def reference_key(beginning: Beginning, dataset_digest: str) -> dict[str, Any]:
    """Everything that decides the numbers. The loss does not, nor beta: trying others out computes nothing again."""
    identity = beginning.model_identity
    lora = identity["options"].get("lora") or {}
    return {
        "format_version": FORMAT_VERSION,
        "dataset": dataset_digest,
        "model": _origin_of(identity["reference"]),
        "computed_as": {name: value for name, value in identity["model"].items() if name not in _PLACES},
        "seed": identity["seed"],
        # Adapters start as nothing to the last bit; DoRA takes its base apart and puts it together again.
        "dora": bool(lora.get("use_dora")),
        "device": beginning.device.type,
        "packages": {name: version(name) for name in ("torch", "transformers")},
    }


def _origin_of(reference: dict[str, Any]) -> dict[str, Any]:
    """What the model is, by its content: a directory's digest, or a hub id with its commit."""
    if reference["sha256"] is None and reference["revision"] is None:
        return {"sha256": sha256_of_tree(Path(reference["name_or_path"]))}
    if reference["sha256"] is not None:
        return {"sha256": reference["sha256"]}
    return {"name": reference["name_or_path"], "revision": reference["revision"]}


def compute_reference(beginning: Beginning, dataset: TokenDataset) -> LogProbabilities:
    """Every process computes a share. In evaluation mode: without dropout. All processes get all of it."""
    passes = plan_passes(dataset, beginning.sequences_apart)
    beginning.say(f"reference: computing log-probabilities of {dataset.num_sequences:,} answers")
    share = share_of(passes, beginning.rank, beginning.num_processes)
    with evaluation_mode(beginning.model.wrapped), torch.no_grad():
        mine = [(numbers, _compute_pass(beginning, dataset, numbers)) for numbers in share]
    values = np.full(dataset.num_sequences, np.nan)
    for one in beginning.gather(mine):
        for numbers, sums in one:
            values[numbers[0] : numbers[-1] + 1] = sums
    _refuse_no_numbers(values)
    return values


def plan_passes(dataset: TokenDataset, sequences_apart: bool) -> list[range]:
    """All sequences in forward passes of neighbours, each as large as the longest sequence, or of one alone.

    The data alone decides it, not how many processes there are: the numbers are the same bits then.
    """
    lengths = [len(dataset.sequence(number).ids) for number in range(dataset.num_sequences)]
    most = max(lengths) if sequences_apart else 0
    starts, filled = [0], 0
    for number, length in enumerate(lengths):
        if number > starts[-1] and filled + length > most:
            starts.append(number)
            filled = 0
        filled += length
    return [range(start, end) for start, end in zip(starts, [*starts[1:], len(lengths)], strict=True)]


def share_of(passes: Sequence[range], rank: int, num_processes: int) -> list[range]:
    """The passes of one process. All have as many: where they run out, the last is computed once more."""
    count = math.ceil(len(passes) / num_processes)
    return [passes[min(index * num_processes + rank, len(passes) - 1)] for index in range(count)]


@contextlib.contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """`model` in evaluation mode, and back as it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _compute_pass(beginning: Beginning, dataset: TokenDataset, numbers: range) -> list[float]:
    batch = make_batch([dataset.sequence(number) for number in numbers]).to(beginning.device)
    sums_S: list[float] = sums_by_sequence(beginning.model.token_log_probabilities(batch), batch).tolist()
    return sums_S


def _refuse_no_numbers(values: LogProbabilities) -> None:
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        message = f"reference: the starting model gives answer {wrong[0]} a log-probability of {values[wrong[0]]}"
        raise TrainingDiverged(message, "model.dtype may be too small for this model: try `bfloat16` or `float32`")
