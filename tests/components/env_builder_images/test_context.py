"""What a build gets is as Pants would give it: modes are a part of BuildKit's cache key."""

from __future__ import annotations

import stat
from pathlib import Path

from tunewright.env_builder.images.context import assemble
from tunewright.env_builder.images.targets import find_target

DOCKERFILE = "FROM scratch\nCOPY images/unpack.py images.tiny/dependencies.pex /build/\n"
HALF_A_MEBIBYTE = 512 * 1024


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_big_files_of_a_program_cannot_be_written_as_where_pants_builds(tmp_path: Path) -> None:
    for file, size in {
        "images/tiny/Dockerfile": 0,
        "images/unpack.py": HALF_A_MEBIBYTE,
        "dist/images.tiny/dependencies.pex/.deps/big.whl": HALF_A_MEBIBYTE,
        "dist/images.tiny/dependencies.pex/.deps/little.whl": HALF_A_MEBIBYTE - 1,
    }.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(bytes(size))
        (tmp_path / file).chmod(0o644)
    (tmp_path / "images/tiny/Dockerfile").write_text(DOCKERFILE)
    assemble(find_target(tmp_path, "images/tiny"), tmp_path, tmp_path / "dist", None)
    wheels = tmp_path / "dist/images.tiny/dependencies.pex/.deps"
    assert (mode_of(wheels / "big.whl"), mode_of(wheels / "little.whl")) == (0o555, 0o644)
    assert mode_of(tmp_path / "images/unpack.py") == 0o644, "a file of the checkout was changed"
