"""From `training.strategy` to the engine that runs it."""

from __future__ import annotations

import importlib

import torch

from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.contracts.experiment import ExperimentSpec
from tunewright.trainer.host_memory import keep_freed_memory
from tunewright.trainer.strategies.engine import Engine

_ENGINES = {
    "ddp": "ddp:DdpEngine",
    "deepspeed_zero2": "deepspeed:Zero2Engine",
    "deepspeed_zero3": "deepspeed:Zero3Engine",
    "fsdp2": "fsdp2:Fsdp2Engine",
}


def start_engine(experiment: ExperimentSpec) -> Engine:
    """The engine that the experiment asks for, in the process group of this process. Collective.

    Raises InvalidExperiment for a precision that this machine has not.
    """
    _refuse_half_precision(experiment)
    if not torch.cuda.is_available():
        keep_freed_memory()
    module, _, name = _ENGINES[experiment.training.strategy].partition(":")
    engine_type: type[Engine] = getattr(importlib.import_module(f"tunewright.trainer.strategies.{module}"), name)
    engine = engine_type(experiment)
    assert engine.strategy == experiment.training.strategy
    return engine


def _refuse_half_precision(experiment: ExperimentSpec) -> None:
    if experiment.model.dtype == "float16" and not torch.cuda.is_available():
        problem = Problem("model.dtype", "float16 needs a GPU", "use bfloat16 or float32")
        raise InvalidExperiment.from_problems(experiment.name, [problem])
