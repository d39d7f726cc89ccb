"""For every test: paths of imports are absolute, so that programs which tests start elsewhere find the same code."""

from __future__ import annotations

import os
import sys

sys.path[:] = [os.path.abspath(entry) for entry in sys.path if entry]
