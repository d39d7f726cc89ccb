"""The variables that keep everything in an image off the network, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

HUB_IN_IMAGE = "/models/hub"
"""Where an image keeps its models."""


@dataclass(frozen=True)
class OfflineVariable:
    """One variable of an image without a network."""

    name: str
    value: str
    reason: str
    """What happens without it."""


OFFLINE_VARIABLES = (
    OfflineVariable("HF_HUB_OFFLINE", "1", "huggingface_hub asks the hub for every file, and waits for its answer"),
    OfflineVariable("TRANSFORMERS_OFFLINE", "1", "the name that older versions of transformers read for the same"),
    OfflineVariable("HF_DATASETS_OFFLINE", "1", "datasets asks the hub for the newest version of what it has cached"),
    OfflineVariable("HF_HUB_DISABLE_TELEMETRY", "1", "huggingface_hub and what builds on it report what is used"),
    OfflineVariable("DO_NOT_TRACK", "1", "other libraries (gradio, vllm) report what is used"),
    OfflineVariable("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1", "a token that lies in the home directory goes with requests"),
    OfflineVariable(
        "HF_HUB_DISABLE_UPDATE_CHECK", "1", "the `hf` program asks the package index for its newest version"
    ),
)
"""What an image with models sets, in this order; `HF_HUB_CACHE` comes with the place of the models."""


def offline_environment(hub: str = HUB_IN_IMAGE) -> dict[str, str]:
    """The variables of an image whose models lie in `hub`."""
    return {"HF_HUB_CACHE": hub, **{variable.name: variable.value for variable in OFFLINE_VARIABLES}}


def offline_problems(environment: Mapping[str, str]) -> list[str]:
    """What `environment` lacks of `OFFLINE_VARIABLES`, each with what happens without it."""
    return [
        f"{variable.name}: must be `{variable.value}`, got {_shown(environment.get(variable.name))}: {variable.reason}"
        for variable in OFFLINE_VARIABLES
        if environment.get(variable.name) != variable.value
    ]


def _shown(value: str | None) -> str:
    return "nothing" if value is None else f"`{value}`"
