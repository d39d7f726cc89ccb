"""Where the package starts: what is quickly answered is answered before the command line is imported."""

from __future__ import annotations

import sys

from tunewright.dataset_cacher.quick_hits import answer


def main() -> None:
    """Run the command line and exit."""
    code = answer(sys.argv[1:])
    if code is not None:
        sys.exit(code)
    from tunewright.dataset_cacher.cli import main as run

    run()


if __name__ == "__main__":
    main()
