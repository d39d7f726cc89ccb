"""The variables of an image without a network: complete, each with its reason, and read by the library they are for."""

from __future__ import annotations

import os
import subprocess
import sys

from tunewright.env_builder.models.offline import (
    HUB_IN_IMAGE,
    OFFLINE_VARIABLES,
    offline_environment,
    offline_problems,
)


def test_each_variable_has_a_reason_and_stands_once() -> None:
    names = [variable.name for variable in OFFLINE_VARIABLES]
    assert len(names) == len(set(names))
    assert {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"} <= set(names)
    assert all(len(variable.reason) > 20 for variable in OFFLINE_VARIABLES)


def test_an_image_with_all_of_them_has_no_problem_and_each_that_is_missing_is_named() -> None:
    whole = offline_environment()
    assert whole["HF_HUB_CACHE"] == HUB_IN_IMAGE
    assert offline_problems(whole) == []
    for variable in OFFLINE_VARIABLES:
        lacking = {name: value for name, value in whole.items() if name != variable.name}
        (problem,) = offline_problems(lacking)
        assert problem == f"{variable.name}: must be `1`, got nothing: {variable.reason}"
    assert offline_problems({**whole, "HF_HUB_OFFLINE": "0"})[0].startswith("HF_HUB_OFFLINE: must be `1`, got `0`")


def test_the_hubs_library_reads_them() -> None:
    script = """
from huggingface_hub import constants
print(constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_TELEMETRY, constants.HF_HUB_DISABLE_IMPLICIT_TOKEN,
      constants.HF_HUB_DISABLE_UPDATE_CHECK, constants.HF_HUB_CACHE)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **offline_environment("/models/hub")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "True", "True", "/models/hub"]
