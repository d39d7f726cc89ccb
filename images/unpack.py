"""Unpacks a PEX inside an image's build so that equal PEXes give equal bytes: order, times, compiled code are fixed.

    unpack.py PEX deps [HEAVY...]     third-party packages: HEAVY ones to /heavy, the others and their lock to /light
    unpack.py PEX srcs                our own code, to /code
    unpack.py DIRECTORY files PLACE   any files, to /files and there below PLACE

What lies in these directories goes into the image's root as it is. A layer is shared, and pushed once, only where its
bytes are the same.
"""

from __future__ import annotations

import contextlib
import csv
import os
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ENVIRONMENT = Path("/app")
"""Where the program lies in the image. The PEX's environment knows its place, so it is made there and then moved."""

LOCK = Path("/lock")
"""The lockfile of the packages, if the build put it there. It stays in the image, to be verified against."""

SITE = ENVIRONMENT / "lib" / "python3.11" / "site-packages"
TIME = 1_700_000_000
"""Of every file, in seconds since 1970. After 1980: some tools make zip files of what they find."""


def main(source: str, scope: str, *rest: str) -> None:
    """Put what `source` holds where a layer will be made of it."""
    if scope == "files":
        shutil.copytree(source, Path("/files", rest[0].lstrip("/")), symlinks=True)
        stamp(Path("/files"))
        return
    refuse_other_bases()
    unpack(source, scope)
    for entry in installed(rest):
        move(entry, Path("/heavy"))
    for lock in LOCK.glob("*.lock"):
        shutil.copyfile(lock, ENVIRONMENT / "requirements.lock")
    move(ENVIRONMENT, Path("/code" if scope == "srcs" else "/light"))
    trees = [tree for tree in (Path("/code"), Path("/heavy"), Path("/light")) if tree.exists()]
    with ProcessPoolExecutor() as pool:
        list(pool.map(compile_tree, trees))
    for tree in trees:
        stamp(tree)


def unpack(pex: str, scope: str) -> None:
    """Make the environment that `pex` holds, or the half of it that `scope` says."""
    command = [sys.executable, pex, "venv", f"--scope={scope}", str(ENVIRONMENT)]
    subprocess.run(command, check=True, env={**os.environ, "PEX_TOOLS": "1", "PEX_ROOT": "/tmp/pex"})
    shutil.rmtree("/tmp/pex")


def refuse_other_bases() -> None:
    """Say what a base image must have, where it has not."""
    missing = [] if sys.version_info[:2] == (3, 11) else [f"Python 3.11 (it has {sys.version.split()[0]})"]
    missing += [] if shutil.which("tini") else ["tini"]
    if missing:
        sys.exit(f"the base image lacks {' and '.join(missing)}: choose another BASE_IMAGE, or images/base")


def installed(names: Iterable[str]) -> Iterator[Path]:
    """The top-level entries in site-packages of each distribution called so, by its RECORD. A `*` is anything."""
    for name in names:
        for record in sorted(SITE.glob(f"{name.replace('-', '_')}-*.dist-info/RECORD")):
            with record.open(newline="") as file:
                tops = {row[0].split("/")[0] for row in csv.reader(file)}
            yield from (SITE / top for top in sorted(tops - {"..", "__pycache__"}) if (SITE / top).exists())


def move(path: Path, destination: Path) -> None:
    """Move `path` to the same place below `destination`."""
    target = destination / path.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)


def stamp(tree: Path) -> None:
    """Give everything in `tree` one time."""
    for path in [*tree.rglob("*"), tree]:
        os.utime(path, (TIME, TIME), follow_symlinks=False)


def compile_tree(tree: Path) -> None:
    """Compile all Python files below `tree`, one after the other: in another order the bytes could be others."""
    for source in sorted(tree.rglob("*.py")):
        compile_file(source, place=Path("/") / source.relative_to(tree))


def compile_file(source: Path, place: Path) -> None:
    """Compile `source`, which will lie at `place`. Its time will not count: nobody who runs an image could compile it
    again, and every start would take long.
    """
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    # Some packages carry templates, or examples of wrong code.
    with contextlib.suppress(py_compile.PyCompileError, ValueError, RecursionError):
        py_compile.compile(str(source), dfile=str(place), doraise=True, invalidation_mode=mode, quiet=2)


if __name__ == "__main__":
    main(*sys.argv[1:])
