"""Getting a model's weights and configuration, safely: safetensors only, no remote code, nothing missing in silence."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from tunewright.contracts.errors import InvalidExperiment, Problem, TunewrightError, Unavailable
from tunewright.contracts.experiment import ModelSpec
from tunewright.contracts.files import sync_directory
from tunewright.contracts.jobs import ModelReference
from tunewright.trainer.computing.segment_attention import use_segments
from tunewright.trainer.lean_imports import import_bitsandbytes, not_installed

_LISTED = 5


class Barrier(Protocol):
    """Waits until every process has called it."""

    def __call__(self) -> None:
        """Return once all have called."""


@dataclass(frozen=True)
class ModelContext:
    """What a variant may know while it builds a model."""

    spec: ModelSpec
    """`[model]` of the experiment."""

    reference: ModelReference
    """Where the model is, resolved."""

    seed: int
    """The experiment's seed. Draws between `load_model` and the first step start from it, in every process alike."""

    device: torch.device
    """Where the model is built: where this process trains, or the host's memory under strategies that cut it first."""

    run_dir: Path
    """Of the run. A variant writes nothing here itself; see `frozen_base`."""

    training_device: torch.device | None = None
    """Where this process trains. None: `device`."""

    vocabulary_size: int | None = None
    """Tokens of the tokenizer, by the dataset. None: not known, and nothing is made of it."""

    is_main: bool = True
    """Whether this process is the one that writes."""

    barrier: Barrier = lambda: None

    computed_in: str = ""
    """What forward passes compute in on this machine. Empty: `model.dtype`."""

    without_weights: bool = False
    """Whether only the model's shape is wanted: nothing is read, drawn to be kept, quantized or written."""

    @property
    def dtype(self) -> torch.dtype:
        """What forward passes compute in: `model.dtype`, where the machine has it (`computing/precision.py`)."""
        return dtype_named(self.computed_in or self.spec.dtype)


def dtype_named(name: str) -> torch.dtype:
    """`float32`, `bfloat16` or `float16` as torch has it."""
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def attention_for(spec: ModelSpec, device: torch.device) -> str | None:
    """What to ask transformers for. None: its own choice, `sdpa` where the model has it, else `eager`.

    A model that gets `sdpa` then attends conversation by conversation: see `computing/segment_attention.py`. Raises
    InvalidExperiment where the one asked for is not installed.
    """
    has_flash = importlib.util.find_spec("flash_attn") is not None and device.type == "cuda"
    if spec.attention == "flash_attention_2" and not has_flash:
        message = f"flash_attention_2 needs a GPU and the package flash-attn; this is {device.type}"
        problem = Problem("model.attention", message, "use `auto`: it takes the fastest that is there")
        raise InvalidExperiment.from_problems(spec.name_or_path, [problem])
    if spec.attention != "auto":
        return spec.attention
    return "flash_attention_2" if has_flash and spec.dtype != "float32" else None


def load_base_model(context: ModelContext, **arguments: Any) -> Any:
    """The experiment's model on `context.device`, float32, in training mode; a transformers `PreTrainedModel`.

    `weights = "random"` draws them from the seed. `arguments` go to transformers' `from_pretrained`.
    """
    if context.without_weights:
        return random_model(context)
    if context.spec.weights == "random":
        return random_model(context).to(context.device)
    return load_weights(context, **arguments).to(context.device)


def random_model(context: ModelContext) -> Any:
    """A model with weights drawn from the seed, on the CPU so that every machine draws the same."""
    from transformers import AutoModelForCausalLM

    config = load_config(context)
    torch.manual_seed(context.seed)
    with _explained(context):
        model = AutoModelForCausalLM.from_config(
            config,
            dtype=torch.float32,
            attn_implementation=attention_for(context.spec, context.training_device or context.device),
            trust_remote_code=False,
        )
    use_segments(model)
    return model.train()


def load_config(context: ModelContext) -> Any:
    """The model's configuration."""
    from transformers import AutoConfig

    with _explained(context):
        return AutoConfig.from_pretrained(
            context.reference.name_or_path, revision=context.reference.revision, trust_remote_code=False
        )


def load_weights(context: ModelContext, **arguments: Any) -> Any:
    """The model with its own weights, float32 unless `arguments` say otherwise. A missing tensor is an error."""
    from transformers import AutoModelForCausalLM

    if context.without_weights:
        return random_model(context)
    if "quantization_config" in arguments:
        import_bitsandbytes()
    with _explained(context):
        model, info = AutoModelForCausalLM.from_pretrained(
            context.reference.name_or_path,
            revision=context.reference.revision,
            attn_implementation=attention_for(context.spec, context.training_device or context.device),
            output_loading_info=True,
            **{"use_safetensors": True, "trust_remote_code": False, "dtype": torch.float32, **arguments},
        )
    _refuse_missing(context, info["missing_keys"])
    use_segments(model)
    return model.train()


def load_reference(name_or_path: str, revision: str | None = None) -> Any:
    """The model at a directory or hub id, float32, on the CPU: what adapters are merged into."""
    reference = ModelReference(name_or_path=name_or_path, revision=revision)
    spec = ModelSpec(name_or_path=name_or_path, revision=revision)
    return load_weights(ModelContext(spec, reference, 0, torch.device("cpu"), Path()))


def _refuse_missing(context: ModelContext, missing: Any) -> None:
    """Transformers fills what a file lacks with random numbers and a warning: that would train another model."""
    names = sorted(missing)
    if names:
        listed = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
        message = f"the weights lack {len(names)} tensors of the model: {listed}"
        raise _invalid(context, message, 'with `weights = "random"` all of them are drawn from the seed')


@contextlib.contextmanager
def _explained(context: ModelContext) -> Iterator[None]:
    """What transformers raises for a wrong model, in our words."""
    try:
        yield
    except TunewrightError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        message = str(error).strip().split("\n")[0]
        if Path(context.reference.name_or_path).is_absolute():
            raise _invalid(context, message) from error
        where = f"{context.reference.name_or_path} at {context.reference.revision}"
        raise Unavailable(f"model {where} could not be had: {message}", "is the hub reachable from here?") from error


def _invalid(context: ModelContext, message: str, hint: str = "") -> InvalidExperiment:
    problem = Problem("model.name_or_path", f"{context.reference.name_or_path}: {message}", hint)
    return InvalidExperiment.from_problems("the model", [problem])


def frozen_base(context: ModelContext) -> ModelContext:
    """The context of the weights that stay as they are beneath an adapter: always something that can be loaded again.

    Random weights are written to the run's `base_model/` first, once, so that the adapter has a base to go onto.
    """
    if context.spec.weights == "pretrained" or context.without_weights:
        return context
    directory = context.run_dir / "base_model"
    if context.is_main and not directory.is_dir():
        write_directory(directory, lambda temporary: save_whole_model(random_model(context), temporary))
    context.barrier()
    reference = ModelReference(name_or_path=str(directory))
    return replace(context, spec=context.spec.model_copy(update={"weights": "pretrained"}), reference=reference)


def save_whole_model(model: Any, directory: Path, weights: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write `model` (a PreTrainedModel) and its configuration as safetensors: equal weights, equal bytes.

    `weights` are its tensors where its own are in pieces.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    with not_installed("deepspeed"):  # to see whether a model is DeepSpeed's, accelerate would import all of it
        # transformers empties the dictionary it is given.
        model.save_pretrained(directory, state_dict=None if weights is None else dict(weights))


class _Writer(Protocol):
    def __call__(self, temporary: Path, /) -> None: ...


def write_directory(directory: Path, write: _Writer) -> None:
    """Let `write` fill a temporary directory beside `directory`, sync it, and rename it into place as a whole."""
    temporary, old = directory.with_name(f".{directory.name}.tmp"), directory.with_name(f".{directory.name}.old")
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        write(temporary)
        sync_tree(temporary)
        if directory.exists():
            directory.rename(old)
        temporary.rename(directory)
        sync_directory(directory.parent)
    finally:
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)


def sync_tree(directory: Path) -> None:
    """Make every file below `directory` survive a power cut."""
    for path in sorted(directory.rglob("*")):
        if path.is_dir():
            sync_directory(path)
            continue
        sync_file(path)
    sync_directory(directory)


def sync_file(path: Path) -> None:
    """Make the content of `path` survive a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
