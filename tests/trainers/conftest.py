"""What trainers import, imported as they do it: before tests import peft, which by itself takes longer."""

from __future__ import annotations

import conformance.preloaded  # noqa: F401
