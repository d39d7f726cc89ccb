"""What a job will take and cost: told before it starts, kept in its run, and made the actual cost at its end."""

from __future__ import annotations

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from tunewright.contracts.spec import Spec

_SECONDS_PER_HOUR = 3600.0


class CostEstimate(Spec):
    """How long a job will run and what an hour of it costs. What nobody knows is None. Written to `estimate.json`."""

    hours: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """How long it will run, without waiting for resources."""

    per_hour: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """What an hour of the whole job costs, all its nodes together, in `currency`."""

    currency: str = ""
    """What `per_hour` is in: `USD`. Empty where no price is known."""

    at_most: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """The most that one run may cost, in `currency`: a job that is estimated above it is refused. None: no limit."""

    basis: str = ""
    """What this rests on, in words: which earlier run, which price."""

    @property
    def amount(self) -> float | None:
        """What the job will cost, in `currency`; None where time or price is not known."""
        return None if self.hours is None or self.per_hour is None else self.hours * self.per_hour


def actual_cost(estimate: Path, started_at: str | None, ended_at: str | None) -> dict[str, Any]:
    """What a job cost that ran from `started_at` to `ended_at`, by the price in the file `estimate`.

    Gives `hours`, `per_hour`, `amount` and `currency`; nothing where price or times are not known.
    """
    try:
        price = CostEstimate.model_validate(json.loads(estimate.read_bytes()))
    except (OSError, ValueError, ValidationError):
        return {}
    hours = _hours_between(started_at, ended_at)
    if hours is None or price.per_hour is None:
        return {}
    amount = round(hours * price.per_hour, 4)
    return {"hours": round(hours, 4), "per_hour": price.per_hour, "amount": amount, "currency": price.currency}


def _hours_between(started_at: str | None, ended_at: str | None) -> float | None:
    try:
        seconds = (datetime.fromisoformat(ended_at or "") - datetime.fromisoformat(started_at or "")).total_seconds()
    except (ValueError, TypeError):  # none, or one with and one without its zone
        return None
    return seconds / _SECONDS_PER_HOUR if math.isfinite(seconds) and seconds >= 0 else None
