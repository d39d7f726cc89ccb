"""Loading and saving models, the same way for every variant. Safetensors only; no code from a model's directory."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunewright.contracts.errors import InvalidExperiment, NotFound, Problem, Unavailable
from tunewright.contracts.experiment import ModelSpec
from tunewright.contracts.files import sync_directory
from tunewright.contracts.jobs import ModelReference
from tunewright.contracts.spec import Spec


@dataclass(frozen=True)
class ModelContext:
    """All a variant needs to load and save a model."""

    reference: ModelReference
    """Where the base model is."""

    spec: ModelSpec
    """Weights, attention, dtype."""

    seed: int
    """Decides random weights."""

    options: Spec
    """The variant's own options, parsed."""

    base_directory: Path
    """Where random base weights are kept for adapters to stand on: the run's `base_model/`."""

    is_main: bool = True
    """Whether this process writes what there is one of."""


def load_base_model(context: ModelContext, **arguments: Any) -> torch.nn.Module:
    """The base model on the CPU in float32: its pretrained weights, or random ones from its configuration.

    `arguments` go to `from_pretrained`. Raises InvalidExperiment, NotFound or Unavailable in words.
    """
    from transformers import AutoModelForCausalLM

    attention = attention_implementation(context.spec)
    if context.spec.weights == "random" and not arguments:
        torch.manual_seed(context.seed)
        model: torch.nn.Module = AutoModelForCausalLM.from_config(_config(context), attn_implementation=attention)
        return model.to(torch.float32)
    name, revision = base_location(context)
    return from_pretrained(name, revision, attn_implementation=attention, **arguments)


def base_location(context: ModelContext) -> tuple[str, str | None]:
    """The path or hub id of weights that can be loaded, and the revision."""
    if context.spec.weights == "random":
        return str(context.base_directory), None
    return context.reference.name_or_path, context.reference.revision


def ensure_base_weights(context: ModelContext) -> None:
    """For adapters on random weights: write the random base model where adapters find it, once, as a whole."""
    if context.spec.weights != "random" or context.base_directory.is_dir():
        return
    if context.is_main:
        save_whole(context.base_directory, lambda draft: load_base_model(context).save_pretrained(draft))  # type: ignore[operator]
    _wait_for_everyone()


def save_whole(directory: Path, write: Any) -> None:
    """Let `write` fill a temporary directory, then rename it to `directory`, replacing what was there."""
    draft = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        write(draft)
        for path in draft.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        if directory.exists():
            shutil.rmtree(directory)
        os.rename(draft, directory)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    sync_directory(directory.parent)


def _wait_for_everyone() -> None:
    import torch.distributed as distributed

    if distributed.is_initialized():
        distributed.barrier()


def _config(context: ModelContext) -> Any:
    from transformers import AutoConfig

    return _in_words(
        context.reference.name_or_path,
        lambda: AutoConfig.from_pretrained(
            context.reference.name_or_path, revision=context.reference.revision, trust_remote_code=False
        ),
    )


def from_pretrained(name: str, revision: str | None, **arguments: Any) -> torch.nn.Module:
    """A pretrained model on the CPU in float32, from safetensors, with no code of its own."""
    from transformers import AutoModelForCausalLM

    model: torch.nn.Module = _in_words(
        name,
        lambda: AutoModelForCausalLM.from_pretrained(
            name, revision=revision, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, **arguments
        ),
    )
    return model


def _in_words(name: str, load: Any) -> Any:
    """Call `load`; what transformers says of a model that cannot be loaded becomes one of our errors."""
    try:
        return load()
    except OSError as error:
        words = str(error).strip().splitlines()[0]
        if not Path(name).is_dir():
            raise Unavailable(f"model.name_or_path: `{name}` cannot be had: {words}") from error
        hint = "safetensors weights are needed; `weights = \"random\"` needs only a configuration"
        raise NotFound(f"model.name_or_path: `{name}` cannot be loaded: {words}", hint) from error
    except ValueError as error:
        words = str(error).strip().splitlines()[0]
        problem = Problem("model.name_or_path", f"`{name}` cannot be loaded: {words}")
        raise InvalidExperiment.from_problems("job", [problem]) from error


def attention_implementation(spec: ModelSpec) -> str:
    """transformers' name for the attention asked for. Raises InvalidExperiment where it is not installed."""
    from importlib.util import find_spec

    if spec.attention == "flash_attention_2" and (find_spec("flash_attn") is None or not torch.cuda.is_available()):
        problem = Problem(
            "model.attention",
            "is `flash_attention_2`, which needs a GPU and the flash-attn package, and this environment lacks them",
            "`auto` takes what is there",
        )
        raise InvalidExperiment.from_problems("job", [problem])
    return "sdpa" if spec.attention == "auto" else spec.attention


def save_model(model: torch.nn.Module, directory: Path) -> None:
    """A whole model as transformers loads it."""
    model.save_pretrained(directory)  # type: ignore[operator]
