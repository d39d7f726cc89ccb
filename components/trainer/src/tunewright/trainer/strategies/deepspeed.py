"""`deepspeed_zero2` and `deepspeed_zero3`: DeepSpeed cuts optimizer, gradients and, in stage 3, weights in pieces.

In bfloat16 the weights that are computed with are bfloat16, as DeepSpeed means it: half the memory and half the traffic
of float32 under autocast. The optimizer's own weights are float32, and start as the float32 weights that were loaded,
not as their roundings; gradients are added up and sent in float32.
"""

from __future__ import annotations

import abc
import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import torch

from tunewright.contracts.experiment import ExperimentSpec
from tunewright.trainer.optimization import restore_state
from tunewright.trainer.strategies.deepspeed_settings import deepspeed_settings
from tunewright.trainer.strategies.engine import Applied, Engine, MakeOptimizer, RefuseNorm
from tunewright.trainer.strategies.process_group import join_process_group

_PRECISION = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
_SET_BY_OTHERS = ("ACCELERATE_USE_DEEPSPEED", "LOCAL_RANK", "DS_ACCELERATOR")
"""Variables that Accelerate and this module leave in the environment, where the next engine would read them."""


class _ZeroEngine(Engine):
    """Training by a DeepSpeedEngine, set up by Accelerate."""

    stage: ClassVar[int]

    def __init__(self, experiment: ExperimentSpec) -> None:
        super().__init__(experiment)
        self._variables_before = {name: os.environ.get(name) for name in _SET_BY_OTHERS}
        on_gpu = torch.cuda.is_available()
        join_process_group(on_gpu, even_alone=True)
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed reads it, even in one process
        if not on_gpu:
            os.environ["DS_ACCELERATOR"] = "cpu"
        _quiet()
        self.rank = torch.distributed.get_rank()
        self.num_processes = torch.distributed.get_world_size()
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        self.skips_overflows = experiment.model.dtype == "float16"
        self.wrapped: Any = None

    def prepare(self, model: Any, make_optimizer: MakeOptimizer) -> Any:
        """`model` in a DeepSpeedEngine, cut in pieces; the optimizer's weights as exact as they were loaded."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        is_rounded = self.experiment.model.dtype != "float32"
        exact = [(parameter, parameter.data) for parameter in trained] if is_rounded else []
        optimizer = make_optimizer(model)
        settings = self._settings(model, trained)
        accelerator = self._start_accelerate(settings)
        self._cut(model, settings)
        self.wrapped, _ = accelerator.prepare(model, optimizer)
        self._zero = self.wrapped.optimizer
        self.optimizer = self._zero.optimizer
        for parameter, value in exact:
            self.set_whole(parameter, value)
        return self.wrapped

    def _settings(self, model: Any, trained: list[torch.nn.Parameter]) -> dict[str, Any]:
        num_trained = sum(parameter.numel() for parameter in trained)
        vectors = [parameter.numel() for parameter in model.parameters() if parameter.ndim < 2]
        return deepspeed_settings(self.experiment, self.stage, self.num_processes, num_trained, max(vectors, default=0))

    def _start_accelerate(self, settings: dict[str, Any]) -> Any:
        """An Accelerator with DeepSpeed. Without a backend by name it would see one process only, without a GPU."""
        from accelerate import Accelerator, DeepSpeedPlugin, InitProcessGroupKwargs
        from accelerate.utils import DistributedType

        accelerator = Accelerator(
            mixed_precision=_PRECISION[self.experiment.model.dtype],
            deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=settings, zero3_init_flag=False),
            kwargs_handlers=[InitProcessGroupKwargs(backend="nccl" if self.device.type == "cuda" else "gloo")],
        )
        _hide_from_transformers()
        assert accelerator.distributed_type == DistributedType.DEEPSPEED
        assert (accelerator.num_processes, accelerator.process_index) == (self.num_processes, self.rank)
        return accelerator

    def _cut(self, model: Any, settings: dict[str, Any]) -> None:
        """Cut the weights in pieces before DeepSpeed moves the model to its device, where it does not do so itself."""

    def describe(self) -> dict[str, Any]:
        """What DeepSpeed says of itself."""
        model_dtype, gradient_dtype = self.wrapped.get_data_types()
        return {
            "strategy": self.strategy,
            "model": type(self.wrapped).__name__,
            "optimizer": type(self._zero).__name__,
            "zero_stage": int(self.wrapped.zero_optimization_stage()),
            "weights": str(model_dtype).removeprefix("torch."),
            "gradients": str(gradient_dtype).removeprefix("torch."),
            "offload": self._offloaded(),
            "processes": int(self.wrapped.dp_world_size),
        }

    def _offloaded(self) -> list[str]:
        settings = {
            "optimizer": self.wrapped.zero_offload_optimizer(),
            "parameters": self.wrapped.zero_offload_param(),
        }
        return [name for name, setting in settings.items() if setting is not None and setting.device == "cpu"]

    def passes_to_make(self, own: int) -> int:
        """As many as any other process: gradients are shared in each backward pass."""
        return int(self.max_over_processes(own))

    @contextlib.contextmanager
    def accumulation(self, wrapped: Any, is_last: bool) -> Iterator[None]:
        """Tell DeepSpeed which pass is a step's last."""
        wrapped.set_gradient_accumulation_boundary(is_last)
        yield

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of `loss` to this process's piece of them."""
        self.wrapped.backward(loss, scale_wrt_gas=False)

    def apply(self, parameters: list[torch.nn.Parameter], max_norm: float, refuse: RefuseNorm) -> Applied:
        """Clip, update and clear in one. DeepSpeed leaves a step out whose norm is no number, and calls it infinite."""
        self.wrapped.step()
        norm = float(self.wrapped.get_global_grad_norm())
        refuse(norm)
        return Applied(norm, not self.wrapped.was_step_applied())

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """The optimizer's float32 weights of a trained parameter, gathered; anything else as it is."""
        from deepspeed.utils import safe_get_full_fp32_param

        if not tensor.requires_grad:
            return tensor.detach()
        gathered: torch.Tensor = safe_get_full_fp32_param(tensor)
        return gathered

    def optimizer_state(self, parameter: torch.nn.Parameter) -> dict[str, Any]:
        """Moments gathered, one tensor at a time; counters, which parameters have in common here, copied for each."""
        from deepspeed.utils import safe_get_full_optimizer_state

        # DeepSpeed has one long vector in the place of many parameters, and torch one state for each of those.
        state: Mapping[str, Any] = next(iter(self.optimizer.state.values()), {})
        if state:
            self._link(parameter)
        return {
            name: safe_get_full_optimizer_state(parameter, name) if _is_moment(value) else _own(value)
            for name, value in state.items()
        }

    def _link(self, parameter: Any) -> None:
        """Let DeepSpeed know where in torch's state the parameter's moments are, where it has to be told."""

    def set_optimizer_state(self, parameter: torch.nn.Parameter, state: Mapping[str, Any]) -> None:
        """Put this process's pieces in their place."""
        if not state:
            return
        self._make_states(state)
        for name, value in state.items():
            if _is_moment(value):
                self._set_moment(parameter, name, value)

    def _make_states(self, like: Mapping[str, Any]) -> None:
        """Room for moments, which torch would make in its first step, and the counters of `like`."""
        for vector in self._vectors():
            if not self.optimizer.state.get(vector):
                state = {n: torch.zeros_like(vector) if _is_moment(value) else _own(value) for n, value in like.items()}
                restore_state(self.optimizer, vector, state)

    @abc.abstractmethod
    def _vectors(self) -> Iterable[Any]:
        """The vectors that torch's optimizer updates in this process."""

    @abc.abstractmethod
    def _set_moment(self, parameter: torch.nn.Parameter, name: str, value: torch.Tensor) -> None:
        """Put this process's piece of a moment, given whole, in its place."""

    def extra_state(self) -> dict[str, Any]:
        """float16's loss scale and when it was last changed."""
        scaler = self._zero.loss_scaler
        return {"scaler": {n: getattr(scaler, n) for n in _SCALER}} if self.skips_overflows else {}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        scaler = state.get("scaler", {})
        if self.skips_overflows and set(_SCALER) <= set(scaler):
            for name in _SCALER:
                setattr(self._zero.loss_scaler, name, scaler[name])

    def close(self) -> None:
        """Take DeepSpeed's hooks, groups and variables away, and leave the process group."""
        from accelerate.state import AcceleratorState
        from deepspeed import comm

        if self.wrapped is not None:
            self.wrapped.destroy()
        AcceleratorState._reset_state(reset_partial_state=True)
        if comm.comm.cdb is not None:
            comm.destroy_process_group()  # with what DeepSpeed remembers of it
            comm.comm.cdb = None
        elif torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for name, value in self._variables_before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


_SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


class Zero2Engine(_ZeroEngine):
    """Every process has all weights, and a piece of the gradients and of the optimizer's state."""

    strategy = "deepspeed_zero2"
    stage = 2

    def set_whole(self, parameter: torch.Tensor, value: torch.Tensor) -> None:
        """Both the optimizer's weights and those that are computed with."""
        from deepspeed.utils import safe_set_full_fp32_param

        safe_set_full_fp32_param(parameter, value)
        parameter.detach().copy_(value)

    def _vectors(self) -> Iterable[Any]:
        vectors: Iterable[Any] = self._zero.single_partition_of_fp32_groups
        return vectors

    def _link(self, parameter: Any) -> None:
        """DeepSpeed does it when the first of several vectors was updated, and so forgets the others (0.19.8)."""
        mapping = parameter._hp_mapping
        if mapping is not None:  # this process has a piece of it
            vector = self._zero.single_partition_of_fp32_groups[mapping.param_group_index]
            mapping.set_optim_state_fragment(vector, self.optimizer.state[vector])

    def _set_moment(self, parameter: torch.nn.Parameter, name: str, value: torch.Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        self._link(parameter)
        safe_set_full_optimizer_state(parameter, value, name)


class Zero3Engine(_ZeroEngine):
    """Every process has a piece of everything. A layer's weights are fetched when it computes."""

    strategy = "deepspeed_zero3"
    stage = 3

    @property
    def loading_device(self) -> torch.device:
        """The host's memory: a GPU has no room for the whole model."""
        return torch.device("cpu")

    def _cut(self, model: Any, settings: dict[str, Any]) -> None:
        """One parameter after the other goes to the device, and all but a piece of it goes again."""
        import deepspeed

        dtype = getattr(torch, self.experiment.model.dtype)
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
        for buffer in model.buffers():
            buffer.data = buffer.data.to(self.device)
        deepspeed.zero.Init(module=model, config_dict_or_path=settings, dtype=dtype)

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """The optimizer's float32 weights; those that are not trained are fetched as they are computed with."""
        import deepspeed

        if tensor.requires_grad or not hasattr(tensor, "ds_id"):
            return super().whole(tensor)
        with deepspeed.zero.GatheredParameters([tensor]):
            return tensor.detach().clone()

    def set_whole(self, parameter: torch.Tensor, value: torch.Tensor) -> None:
        """The optimizer's piece and the piece that is computed with, and the whole where it is at hand."""
        from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
        from deepspeed.utils import safe_set_local_fp32_param

        piece = self._piece(parameter, value)
        safe_set_local_fp32_param(parameter, piece)
        parameter.ds_tensor.data.copy_(piece)  # type: ignore[attr-defined]  # DeepSpeed's
        if parameter.ds_status == ZeroParamStatus.AVAILABLE:  # type: ignore[attr-defined]
            parameter.detach().copy_(value)

    def _piece(self, parameter: Any, value: torch.Tensor) -> torch.Tensor:
        """This process's elements of `value`; zeros where there are no more (`safe_set_full_*` cannot do that)."""
        size = parameter.ds_tensor.numel()
        own = value.flatten()[size * self.rank : size * (self.rank + 1)]
        return torch.nn.functional.pad(own, (0, size - own.numel()))

    def _vectors(self) -> Iterable[Any]:
        vectors: Iterable[Any] = self._zero.fp32_partitioned_groups_flat
        return vectors

    def _set_moment(self, parameter: torch.nn.Parameter, name: str, value: torch.Tensor) -> None:
        from deepspeed.utils import safe_set_local_optimizer_state

        safe_set_local_optimizer_state(parameter, self._piece(parameter, value), name)


def _is_moment(value: Any) -> bool:
    """Whether it belongs to each element of a parameter, and not to all of them."""
    return isinstance(value, torch.Tensor) and value.ndim > 0


def _own(counter: Any) -> Any:
    """A counter that no other parameter shares: torch counts in place."""
    return counter.clone() if isinstance(counter, torch.Tensor) else counter


def _quiet() -> None:
    """Keep DeepSpeed from writing to stdout, and from compiling a kernel that sums among processes of a node."""
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _hide_from_transformers() -> None:
    """Accelerate tells transformers of stage 3, which would then cut every model that it loads."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
