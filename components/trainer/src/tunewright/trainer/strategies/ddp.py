"""`ddp`: every process has the whole model; gradients are averaged."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from tunewright.contracts.experiment import ExperimentSpec
from tunewright.trainer.computing.precision import computed_dtype
from tunewright.trainer.optimization import restore_state
from tunewright.trainer.strategies.engine import Applied, Engine, MakeOptimizer, RefuseNorm, nothing_special
from tunewright.trainer.strategies.process_group import join_process_group, leave_process_group

_PRECISION = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


class DdpEngine(Engine):
    """Data-parallel training by Accelerate."""

    strategy: ClassVar[str] = "ddp"

    def __init__(self, experiment: ExperimentSpec) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs

        super().__init__(experiment)
        on_gpu = torch.cuda.is_available()
        join_process_group(on_gpu)
        dtype = computed_dtype(experiment.model.dtype, self.strategy, torch.device("cuda" if on_gpu else "cpu"))
        self.accelerator = Accelerator(
            cpu=not on_gpu,
            mixed_precision=_PRECISION[dtype],
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
        self.rank: int = self.accelerator.process_index
        self.num_processes: int = self.accelerator.num_processes
        self.device: torch.device = self.accelerator.device
        self.skips_overflows = experiment.model.dtype == "float16"

    def prepare(self, model: Any, make_optimizer: MakeOptimizer) -> Any:
        """`model` in DistributedDataParallel where there are several processes, with autocast."""
        self.optimizer = make_optimizer(model)
        self.wrapped, self._stepper = self.accelerator.prepare(model, self.optimizer)
        return self.wrapped

    def describe(self) -> dict[str, Any]:
        """The class that wraps the model, and how many processes it knows of."""
        processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        return {"strategy": self.strategy, "model": type(self.wrapped).__name__, "processes": processes}

    def accumulation(self, wrapped: Any, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """DDP's `no_sync` but for the last pass."""
        context: contextlib.AbstractContextManager[None] = (
            nothing_special() if is_last else self.accelerator.no_sync(wrapped)
        )
        return context

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of `loss`, scaled where the precision needs it."""
        self.accelerator.backward(loss)

    def apply(self, parameters: list[torch.nn.Parameter], max_norm: float, refuse: RefuseNorm) -> Applied:
        """Clip, refuse, update, clear."""
        norm = float(self.accelerator.clip_grad_norm_(parameters, max_norm or math.inf))
        refuse(norm)
        self._stepper.step()
        self._stepper.zero_grad(set_to_none=True)
        return Applied(norm, bool(self.accelerator.optimizer_step_was_skipped))

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """Every process has it whole."""
        return tensor.detach()

    def set_whole(self, parameter: torch.Tensor, value: torch.Tensor) -> None:
        """Copy it into place."""
        parameter.detach().copy_(value)

    def optimizer_state(self, parameter: torch.nn.Parameter) -> dict[str, Any]:
        """As the optimizer has it."""
        return dict(self.optimizer.state.get(parameter, {}))

    def set_optimizer_state(self, parameter: torch.nn.Parameter, state: Mapping[str, Any]) -> None:
        """As the optimizer would have it: moments beside the parameter, counters where they were."""
        if state:
            restore_state(self.optimizer, parameter, state)

    def extra_state(self) -> dict[str, Any]:
        """float16's loss scale."""
        return {} if self.accelerator.scaler is None else {"scaler": self.accelerator.scaler.state_dict()}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        if self.accelerator.scaler is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def close(self) -> None:
        """Leave the process group, and let the next engine of this process choose its precision anew."""
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)
        leave_process_group()
