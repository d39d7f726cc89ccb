"""The real Pex, made once on this machine as ./pants makes it, and a bench for each test."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from components.env_builder_foreign.bench import Bench
from tunewright.env_builder.interpreter import find_base_interpreter

BOOTSTRAP = Path("build-support/bootstrap")


@pytest.fixture(scope="session")
def pex_program() -> Path:
    """The pinned Pex: made by `ensure-pex.sh` in the user's cache, which needs the package index the first time.

    Where that cannot be reached the tests are skipped with the reason; in CI they fail.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunewright"
    python = find_base_interpreter()
    assert python is not None
    command = ["bash", str(BOOTSTRAP / "ensure-pex.sh"), python, str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = f"Pex cannot be made here: {done.stderr.strip()[-500:]}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    version = (BOOTSTRAP / "pex.lock").read_text().split()[0].removeprefix("pex==")
    return cache / f"pex-{version}.pex"


@pytest.fixture(scope="session")
def pex_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where Pex unpacks itself: once for all tests."""
    return tmp_path_factory.mktemp("pex-root")


@pytest.fixture
def bare_bench(tmp_path: Path) -> Bench:
    """A checkout with nothing in it: enough for what is refused, and for plans."""
    bench = Bench(tmp_path / "project", tmp_path / "home", tmp_path / "links")
    (bench.root / ".git").mkdir(parents=True)
    bench.home.mkdir()
    bench.links.mkdir()
    return bench


@pytest.fixture
def bench(bare_bench: Bench, pex_program: Path, pex_root: Path) -> Bench:
    """A checkout that has the pinned Pex, and a home."""
    shutil.copytree(BOOTSTRAP, bare_bench.root / BOOTSTRAP)
    made = bare_bench.root / ".pants.bootstrap.d" / pex_program.name
    made.parent.mkdir()
    made.symlink_to(pex_program)
    (bare_bench.home / "pex_root").symlink_to(pex_root)
    return bare_bench
