"""`python -m tunewright.trainer`: how a node starts its processes."""

from __future__ import annotations

from tunewright.trainer.cli import main

if __name__ == "__main__":
    main()
