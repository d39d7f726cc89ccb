"""What can go wrong in the job alone."""

from __future__ import annotations

from tunewright.contracts.errors import TunewrightError


class TrainingDiverged(TunewrightError, ArithmeticError):
    """The loss or the gradient is no finite number any more. Nothing of that step was saved."""

    exit_code = 1
