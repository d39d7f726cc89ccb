"""What `[training.options]` may hold for variant `full`: nothing."""

from __future__ import annotations

from tunewright.contracts.spec import Spec


class FullOptions(Spec):
    """All weights learn; there is nothing to choose."""
