"""The repository's own Dockerfiles, as the env-builder reads them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tunewright.env_builder.images.targets import find_target, is_base
from tunewright.env_builder.models.offline import HUB_IN_IMAGE, offline_environment

ROOT = Path().absolute()
FOLDERS = sorted(path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("images/*/Dockerfile"))
IMAGES = [folder for folder in FOLDERS if not is_base(folder)]


def variables(dockerfile: str) -> dict[str, str]:
    """Every variable that an ENV line sets."""
    lines = re.findall(r"^ENV (.+)$", dockerfile, re.MULTILINE)
    return dict(pair.split("=", 1) for line in lines for pair in line.split())


def test_every_image_is_there() -> None:
    named = {"trainer-cpu", "trainer-cuda", "launcher", "dataset-cacher", "inference", "offline"}
    assert {folder.rpartition("/")[2] for folder in IMAGES} == named


@pytest.mark.parametrize("folder", IMAGES)
def test_an_image_runs_as_nobody_in_particular_under_an_init_process(folder: str) -> None:
    target = find_target(ROOT, folder)
    lower = [find_target(ROOT, address).dockerfile for address in target.bases.values() if not is_base(address)]
    text = "\n".join([*lower, target.dockerfile])
    assert 'ENTRYPOINT ["tini", "--", ' in text
    assert "USER 10001:10001" in text
    assert target.command_in(ROOT)[0].startswith("/app/")


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_that_the_builder_of_debians_engine_lacks_is_used(folder: str) -> None:
    text = find_target(ROOT, folder).dockerfile
    assert not re.search(r"^# syntax=|<<|--link|^RUN --", text, re.MULTILINE)


@pytest.mark.parametrize("folder", IMAGES)
def test_what_is_compiled_into_a_layer_does_not_depend_on_a_hash_seed(folder: str) -> None:
    unpacking = [line for line in find_target(ROOT, folder).dockerfile.splitlines() if "unpack.py" in line]
    compiling = [line for line in unpacking if line.startswith("RUN") and '"files"' not in line]
    assert all("PYTHONHASHSEED=0" in line for line in compiling)


@pytest.mark.parametrize("name", ["trainer-cpu", "trainer-cuda"])
def test_torch_has_a_layer_of_its_own(name: str) -> None:
    text = find_target(ROOT, f"images/{name}").dockerfile
    assert text.index("COPY --from=packages /heavy/ /") < text.index("COPY --from=packages /light/ /")
    assert re.search(r'"deps", "torch"', text)


def test_the_offline_image_sets_every_variable_that_verify_asks_for() -> None:
    set_here = variables(find_target(ROOT, "images/offline").dockerfile)
    wanted = offline_environment(HUB_IN_IMAGE)
    assert {name: set_here.get(name) for name in wanted} == wanted


def test_the_cuda_image_differs_from_the_other_in_packages_and_settings_only() -> None:
    cpu, cuda = (find_target(ROOT, f"images/trainer-{kind}") for kind in ("cpu", "cuda"))
    assert cuda.command == cpu.command
    assert cuda.resolve == "train-cuda"
    assert variables(cpu.dockerfile).items() <= variables(cuda.dockerfile).items()
    assert variables(cuda.dockerfile)["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
