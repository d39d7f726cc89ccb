"""What `gc` lets go and what it keeps, and why. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tunewright.contracts.errors import UsageError
from tunewright.dataset_cacher.storage.store import Leftover, StoredCache
from tunewright.dataset_cacher.storage.uses import Use

DAY_SECONDS = 86_400.0
_NAMED_RUNS = 3
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgtp]?)(i?)b?", re.IGNORECASE)

Kind = Literal["cache", "copy", "unfinished", "work", "temporary"]


@dataclass(frozen=True)
class Limits:
    """What may stay."""

    older_than_seconds: float | None = None
    """What was not used for so long goes."""

    max_bytes: int | None = None
    """What was used least recently goes until the rest is no more than this."""

    keeps_finished: bool = True
    """What the record of a finished run refers to stays."""


@dataclass(frozen=True)
class Verdict:
    """What becomes of one thing, and why."""

    digest: str
    kind: Kind
    """`copy`: of a cache at a URL. `unfinished`: without a manifest. `work`, `temporary`: left by a preparer."""

    bytes: int
    used_at: float
    """Seconds since 1970."""

    goes: bool
    reason: str


def judge(
    caches: Sequence[tuple[Kind, StoredCache]],
    leftovers: Sequence[Leftover],
    uses: Mapping[str, Sequence[Use]],
    limits: Limits,
    now: float,
) -> list[Verdict]:
    """What goes and what stays of the caches, in their order, and then of the leftovers."""
    verdicts = [_judge_cache(kind, one, uses.get(one.digest, ()), limits, now) for kind, one in caches]
    return [*_fit(verdicts, limits.max_bytes), *(_judge_leftover(one, limits, now) for one in leftovers)]


_IN_USE = "used by run"


def _judge_cache(kind: Kind, cache: StoredCache, uses: Sequence[Use], limits: Limits, now: float) -> Verdict:
    verdict = Verdict(cache.digest, kind, cache.bytes, cache.used_at, False, f"used {_ago(now - cache.used_at)}")
    if not cache.is_whole:
        return replace(verdict, kind="unfinished", goes=True, reason="has no manifest: it was never whole")
    # A copy is not what a run reads: its nodes have their own.
    counted = [use for use in uses if kind == "cache" and (limits.keeps_finished or not use.is_finished)]
    if counted:
        return replace(verdict, reason=f"{_IN_USE} {_named([use.run for use in counted])}")
    if limits.older_than_seconds is not None and now - cache.used_at >= limits.older_than_seconds:
        return replace(verdict, goes=True, reason=f"not used since {_ago(now - cache.used_at)}")
    return verdict


def _fit(verdicts: Sequence[Verdict], max_bytes: int | None) -> list[Verdict]:
    """Let the least recently used go until the rest fits."""
    fitted = list(verdicts)
    if max_bytes is None:
        return fitted
    total = sum(one.bytes for one in fitted if not one.goes)
    for index in sorted(range(len(fitted)), key=lambda index: fitted[index].used_at):
        one = fitted[index]
        if total > max_bytes and not one.goes and not one.reason.startswith(_IN_USE):
            fitted[index] = replace(one, goes=True, reason=f"least recently used, of more than {size_text(max_bytes)}")
            total -= one.bytes
    return fitted


def _judge_leftover(leftover: Leftover, limits: Limits, now: float) -> Verdict:
    idle_seconds = now - leftover.changed_at
    kind: Kind = "work" if leftover.is_work else "temporary"
    verdict = Verdict(leftover.digest, kind, leftover.bytes, leftover.changed_at, True, "left by a killed preparer")
    patience = min(DAY_SECONDS, DAY_SECONDS if limits.older_than_seconds is None else limits.older_than_seconds)
    if leftover.is_work and idle_seconds < patience:
        return replace(verdict, goes=False, reason=f"left {_ago(idle_seconds)}: the next preparer goes on with it")
    return verdict


def _named(runs: Sequence[str]) -> str:
    more = f" and {len(runs) - _NAMED_RUNS} more" if len(runs) > _NAMED_RUNS else ""
    return ", ".join(runs[:_NAMED_RUNS]) + more


def _ago(seconds: float) -> str:
    return f"{age_text(seconds)} ago"


def age_text(seconds: float) -> str:
    """`3 days`, `2 h`, `5 min`, `9 s`."""
    for unit, length in (("days", DAY_SECONDS), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length * (2 if unit == "days" else 1):
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def size_text(size: int) -> str:
    """`1.5 GB`, in powers of ten."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:,.1f} {unit}"
    return f"{size} B"


def parse_size(text: str) -> int:
    """`500MB`, `1.5 GiB`, `20000` in bytes. Raises UsageError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"--max-bytes {text}: is no size", "for example 500MB, 1.5TiB or a number of bytes")
    power = " kmgtp".index(match[2].lower() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)
