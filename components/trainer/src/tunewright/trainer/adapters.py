"""Low-rank adapters with peft: put onto a model, saved, merged. What `lora` and `qlora` share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import torch

from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.contracts.files import write_json_atomically
from tunewright.trainer.models import ModelContext, base_location, from_pretrained

ALL_LINEAR = "all-linear"


class AdapterOptions(Protocol):
    """What a variant's options must have to get an adapter."""

    @property
    def rank(self) -> int:
        """The adapter's rank."""

    @property
    def alpha(self) -> float:
        """The adapter is scaled by alpha / rank."""

    @property
    def dropout(self) -> float:
        """Share of the adapter's input that is dropped in training."""

    @property
    def target_modules(self) -> str | tuple[str, ...]:
        """`all-linear`, or names of modules."""


def attach_adapter(model: torch.nn.Module, options: AdapterOptions, seed: int) -> torch.nn.Module:
    """`model`, frozen, with an adapter that learns. Raises InvalidExperiment for a target that matches nothing."""
    from peft import LoraConfig, get_peft_model

    check_targets(model, options.target_modules)
    targets = options.target_modules if isinstance(options.target_modules, str) else list(options.target_modules)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=targets,
        bias="none",
    )
    torch.manual_seed(seed)  # the adapter's first values
    adapted: torch.nn.Module = get_peft_model(model, config)
    return adapted


def check_targets(model: torch.nn.Module, targets: str | tuple[str, ...]) -> None:
    """Each name must be that of a linear module: a typo must not train nothing in silence."""
    if targets == ALL_LINEAR:
        return
    names = (targets,) if isinstance(targets, str) else targets
    linear = sorted({name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)})
    paths = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    unmatched = [name for name in names if not any(path == name or path.endswith(f".{name}") for path in paths)]
    if unmatched or not names:
        missing = ", ".join(f"`{name}`" for name in unmatched) or "an empty list"
        problem = Problem(
            "training.options.target_modules",
            f"{missing} matches no linear module of the model",
            f"the model has: {', '.join(linear)}; or `{ALL_LINEAR}`",
        )
        raise InvalidExperiment.from_problems("job", [problem])


def adapter_names(model: torch.nn.Module) -> set[str]:
    """The names, in the state dict, of all that learns."""
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_adapter(model: torch.nn.Module, directory: Path, context: ModelContext) -> None:
    """The adapter in peft's format; its configuration names the base it stands on."""
    model.save_pretrained(directory)  # type: ignore[operator]
    base, revision = base_location(context)
    path = directory / "adapter_config.json"
    configuration: dict[str, Any] = json.loads(path.read_text())
    configuration["base_model_name_or_path"], configuration["revision"] = base, revision
    # peft keeps a list of targets as a set: sorted, the file is the same every time.
    if isinstance(configuration.get("target_modules"), list):
        configuration["target_modules"].sort()
    write_json_atomically(path, configuration)
    (directory / "README.md").unlink(missing_ok=True)  # peft's empty model card; ours says where it comes from


def merge_adapter(saved: Path, directory: Path, context: ModelContext) -> None:
    """The base in full precision with the adapter in `saved` added to its weights: logits equal adapter on base."""
    from peft import PeftModel

    name, revision = base_location(context)
    model = PeftModel.from_pretrained(from_pretrained(name, revision), str(saved))
    model.merge_and_unload().save_pretrained(directory)
