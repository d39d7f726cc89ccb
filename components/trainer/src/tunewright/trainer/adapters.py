"""LoRA adapters by peft: putting them on, saving them beside the name of their base, merging them into it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from tunewright.contracts.adapters import AdapterOptions
from tunewright.contracts.errors import InvalidExperiment, Problem, UsageError
from tunewright.contracts.files import write_json_atomically
from tunewright.contracts.jobs import ModelReference
from tunewright.trainer.lean_imports import import_bitsandbytes
from tunewright.trainer.model_loading import load_reference, save_whole_model


@dataclass(frozen=True)
class AdapterUse:
    """What differs between variants that put adapters on a model."""

    options_path: str = "training.options"
    """Where the user writes the adapters' options."""

    task: str = "CAUSAL_LM"
    """What the model does, in peft's words: it decides which class loads the adapters."""

    trained_modules: tuple[str, ...] = ()
    """Modules that are trained whole, and saved with the adapters."""


PLAIN_USE = AdapterUse()


def add_adapters(model: Any, options: AdapterOptions, base: ModelReference, use: AdapterUse = PLAIN_USE) -> Any:
    """A peft model: `model` frozen, adapters on it trained in float32. `base` is what the adapters will name as theirs.

    Raises InvalidExperiment for each target that matches no layer.
    """
    import_bitsandbytes()
    from peft import LoraConfig, get_peft_model

    path = f"{use.options_path}.target_modules"
    refuse_unmatched_targets(model, options.target_modules, path)
    model.requires_grad_(False)
    targets = options.target_modules
    config = LoraConfig(
        task_type=use.task,
        modules_to_save=list(use.trained_modules) or None,
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        use_rslora=options.use_rslora,
        use_dora=options.use_dora,
        bias=options.bias,
    )
    try:
        adapted = get_peft_model(model, config)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise _invalid([Problem(path, str(error).split("\n")[0], _available(model))]) from error
    config = adapted.peft_config["default"]
    config.base_model_name_or_path, config.revision = base.name_or_path, base.revision
    return adapted


def refuse_unmatched_targets(model: torch.nn.Module, targets: Literal["all-linear"] | Sequence[str], path: str) -> None:
    """Raise InvalidExperiment naming every target that no layer of `model` is called. `path` is the option's key."""
    if isinstance(targets, str):
        return
    names = [name for name, _ in model.named_modules()]
    unmatched = [
        target for target in targets if not any(name == target or name.endswith(f".{target}") for name in names)
    ]
    if unmatched:
        hint = _available(model)
        raise _invalid([Problem(path, f"`{target}` matches no layer of the model", hint) for target in unmatched])


def _available(model: torch.nn.Module) -> str:
    linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    return f"linear layers there: {', '.join(sorted(linear)) or 'none'}; or `all-linear`"


def _invalid(problems: list[Problem]) -> InvalidExperiment:
    return InvalidExperiment.from_problems("the adapters", problems)


def save_adapter(model: Any, directory: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Write the adapters in peft's format: `adapter_model.safetensors` and `adapter_config.json` naming their base.

    `weights` are the adapters' tensors by their names in `model`.
    """
    # `auto` would ask the hub whether the base's vocabulary has changed.
    model.save_pretrained(directory, save_embedding_layers=False, state_dict=dict(weights))
    config = directory / "adapter_config.json"
    document = json.loads(config.read_text())
    # peft keeps the targets as a set, whose order differs from process to process.
    document["target_modules"] = sorted(document["target_modules"])
    write_json_atomically(config, document)


def _unchanged(model: Any) -> Any:
    return model


def merge_adapter(source: Path, destination: Path, convert: Callable[[Any], Any] = _unchanged) -> None:
    """Add the adapters in `source` to their base in float32 and write the full model to `destination`.

    `convert` makes of the base, as it is loaded, what the adapters went onto.
    """
    import_bitsandbytes()
    from peft import PeftConfig, PeftModel

    if not (source / "adapter_config.json").is_file():
        raise UsageError(f"{source}: has no adapter_config.json: nothing to merge")
    config = PeftConfig.from_pretrained(str(source))
    base = convert(load_reference(config.base_model_name_or_path, config.revision))
    save_whole_model(PeftModel.from_pretrained(base, str(source)).merge_and_unload(), destination)
