"""What `[training.options]` may hold for variant `full`."""

from __future__ import annotations

from tunewright.contracts.spec import Spec


class FullOptions(Spec):
    """Nothing: every weight is trained, and the rest is said in `[training]`."""
