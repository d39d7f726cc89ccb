"""Which runs of a home use which caches."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from tunewright.contracts.rundir import RunDir


@dataclass(frozen=True)
class Use:
    """A run that was given a cache."""

    run: str
    is_finished: bool
    """Its record is written: it has ended. The record still refers to the cache."""


def uses_of(home: Path) -> dict[str, tuple[Use, ...]]:
    """The runs below `home` that name each cache, by the cache's digest."""
    found: dict[str, list[Use]] = defaultdict(list)
    for path in sorted(home.glob("runs/*/*dataset.json")):  # the one it trains on, the one it is evaluated on
        run = RunDir(path.parent)
        try:
            digest = str(json.loads(path.read_bytes())["digest"])
        except (OSError, ValueError, TypeError, KeyError):
            continue  # no run of ours: a dataset.json is renamed into place whole
        use = Use(run.name, run.provenance.is_file())
        if use not in found[digest]:
            found[digest].append(use)
    return {digest: tuple(uses) for digest, uses in found.items()}
