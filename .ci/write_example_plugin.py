"""Write the example cluster of docs/plugins.md to a directory, as an author would have it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

FILES = ("nohup_cluster.py", "pyproject.toml")


def main(destination: Path) -> None:
    """Write the named blocks of code of the page."""
    page = Path("docs/plugins.md").read_text()
    destination.mkdir(parents=True)
    for name in FILES:
        found = re.search(rf"^```\w+ file={re.escape(name)}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
        assert found, f"docs/plugins.md has no block of code called {name}"
        (destination / name).write_text(found[1])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
