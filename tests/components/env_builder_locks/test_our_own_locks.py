"""The locks of this repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tunewright.env_builder.locks.cuda_image import cuda_versions, find_cuda_problems
from tunewright.env_builder.locks.pins import cuda_of, find_known_bad_pins
from tunewright.env_builder.locks.project import FOLDER, find_lock_problems
from tunewright.env_builder.locks.requirement_files import LockEntry, lock_entries

ROOT = Path(__file__).parents[3]
RESOLVES = ("pytest", "mypy", "ruff", "tools", "train-cpu", "train-cuda", "flash-attn-build", "flash-attn")


def _locked(name: str) -> dict[str, LockEntry]:
    return {entry.name: entry for entry in lock_entries((ROOT / FOLDER / f"{name}.lock").read_text())}


@pytest.mark.parametrize("name", RESOLVES)
def test_every_resolve_has_a_lock_with_packages(name: str) -> None:
    assert _locked(name)


def test_our_locks_are_what_was_asked_for_and_agree() -> None:
    assert find_lock_problems(ROOT) == []


def test_our_locks_have_no_known_bad_pin() -> None:
    assert find_known_bad_pins(ROOT) == []


def test_the_cuda_image_names_what_its_locks_have() -> None:
    assert find_cuda_problems(ROOT) == []


ONLY_TESTS = {
    "alembic", "blinker", "flask", "flask-cors", "graphene", "graphql-core", "graphql-relay", "itsdangerous", "mako",
    "sqlalchemy", "trl",
}  # fmt: skip
"""What mlflow-server.in and trl.in bring: tests alone use it, and they run without a GPU."""


def test_train_cuda_has_all_that_jobs_use_of_train_cpu_and_beyond_it_only_what_gpus_need() -> None:
    cpu, cuda = _locked("train-cpu"), _locked("train-cuda")
    assert set(cpu) - set(cuda) == ONLY_TESTS
    only_cuda = set(cuda) - set(cpu)
    assert {name for name in only_cuda if not re.match(r"nvidia-|cuda-", name)} == {"liger-kernel", "triton"}
    different = {name for name in set(cpu) - ONLY_TESTS if cpu[name].version != cuda[name].version}
    assert different == {"torch"}
    assert (cpu["torch"].version, cuda["torch"].version) == (f"{cuda['torch'].version}+cpu", cuda["torch"].version)


def test_what_builds_flash_attn_has_the_compiler_of_the_cuda_that_torch_is_built_with() -> None:
    cuda = cuda_of(list(_locked("train-cuda").values()))
    build = _locked("flash-attn-build")
    assert cuda is not None
    assert (build["nvidia-cuda-nvcc"].version or "").startswith(f"{cuda}.")
    assert build["torch"].version == _locked("train-cuda")["torch"].version
    assert list(_locked("flash-attn")) == ["flash-attn"]


def test_flash_attn_is_compiled_for_ampere() -> None:
    versions = cuda_versions(ROOT)
    assert versions is not None
    assert "80" in versions.flash_attn_archs
