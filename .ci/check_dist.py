"""Check that `dist/` has a PEX of each component and a wheel of each distribution, each with its own version."""

from __future__ import annotations

import sys
import tomllib
import zipfile
from pathlib import Path

PEXES = ("launcher", "env-builder", "dataset-cacher", "trainer")


def problems() -> list[str]:
    """What is missing or wrong, a sentence each."""
    found = [
        f"dist/tunewright-{name}.pex is missing" for name in PEXES if not Path(f"dist/tunewright-{name}.pex").exists()
    ]
    for pyproject in sorted(Path().glob("*/*/pyproject.toml")):
        project = tomllib.loads(pyproject.read_text())["project"]
        stem = f"{project['name'].replace('-', '_')}-{project['version']}"
        wheels = list(Path("dist").glob(f"{stem}-*.whl"))
        if len(wheels) != 1:
            found.append(f"{pyproject}: {len(wheels)} wheels {stem}-*.whl in dist/, not 1")
            continue
        names = zipfile.ZipFile(wheels[0]).namelist()
        if not any(name.startswith("tunewright/") and name.endswith(".py") for name in names):
            found.append(f"{wheels[0]} holds no code")
        if project.get("entry-points") and f"{stem}.dist-info/entry_points.txt" not in names:
            found.append(f"{wheels[0]} has no entry points")
    return found


if __name__ == "__main__":
    complaints = problems()
    print("\n".join(complaints) or "dist/ is complete")
    sys.exit(1 if complaints else 0)
