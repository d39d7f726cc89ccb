"""The real Pex, made once on this machine as ./pants makes it, and a bench for each test."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from components.env_builder_foreign.bench import BOOTSTRAP, Bench, give_pex, make_bench
from tunewright.env_builder.interpreter import find_base_interpreter


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
    return make_bench(tmp_path)


@pytest.fixture
def bench(bare_bench: Bench, pex_program: Path, pex_root: Path) -> Bench:
    """A checkout that has the pinned Pex, and a home."""
    return give_pex(bare_bench, pex_program, pex_root)
