"""`fsdp2`: torch's own way to cut weights, gradients and optimizer in pieces, layer by layer.

In bfloat16 and float16 a layer's weights are rounded when they are fetched, and computed with as that; the pieces, the
gradients' sums and the optimizer stay float32.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from tunewright.contracts.experiment import ExperimentSpec
from tunewright.trainer.optimization import restore_state
from tunewright.trainer.strategies.engine import Applied, Engine, MakeOptimizer, RefuseNorm, nothing_special
from tunewright.trainer.strategies.process_group import join_process_group, leave_process_group


class Fsdp2Engine(Engine):
    """Training with torch's `fully_shard`."""

    strategy: ClassVar[str] = "fsdp2"

    def __init__(self, experiment: ExperimentSpec) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        super().__init__(experiment)
        on_gpu = torch.cuda.is_available()
        join_process_group(on_gpu, even_alone=True)
        self.rank = torch.distributed.get_rank()
        self.num_processes = torch.distributed.get_world_size()
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        self.mesh = init_device_mesh(self.device.type, (self.num_processes,))
        self.skips_overflows = experiment.model.dtype == "float16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.skips_overflows)

    @property
    def loading_device(self) -> torch.device:
        """The host's memory: a GPU has no room for the whole model."""
        return torch.device("cpu")

    def prepare(self, model: Any, make_optimizer: MakeOptimizer) -> Any:
        """`model` itself, cut in pieces: one group of parameters for each layer, and one for the rest."""
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        dtype = getattr(torch, self.experiment.model.dtype)
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        for layer in layers_of(model):
            fully_shard(layer, mesh=self.mesh, mp_policy=policy)
        self.wrapped: Any = fully_shard(model, mesh=self.mesh, mp_policy=policy)
        self.wrapped.register_forward_hook(_cut_again)
        self.optimizer = make_optimizer(model)
        return self.wrapped

    def describe(self) -> dict[str, Any]:
        """What was made of the model."""
        from torch.distributed.fsdp import FSDPModule
        from torch.distributed.tensor import DTensor

        whole = [name for name, tensor in self.wrapped.named_parameters() if not isinstance(tensor, DTensor)]
        return {
            "strategy": self.strategy,
            "model": type(self.wrapped).__name__,
            "groups": sum(isinstance(module, FSDPModule) for module in self.wrapped.modules()),
            "parameters_in_one_piece": len(whole),
            "weights": str(self.wrapped._get_fsdp_state()._mp_policy.param_dtype).removeprefix("torch."),
            "processes": int(self.mesh.size()),
        }

    def passes_to_make(self, own: int) -> int:
        """As many as any other process: weights are fetched in each pass."""
        return int(self.max_over_processes(own))

    def accumulation(self, wrapped: Any, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Nothing: every pass adds to this process's piece. Keeping whole gradients would take a whole model's room."""
        return nothing_special()

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of `loss`, scaled where the precision needs it, to this process's piece of them."""
        torch.autograd.backward(self.scaler.scale(loss))

    def apply(self, parameters: list[torch.nn.Parameter], max_norm: float, refuse: RefuseNorm) -> Applied:
        """Clip, refuse, update, clear."""
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm or math.inf)
        number = float(self.whole(norm))
        refuse(number)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return Applied(number, self.skips_overflows and not math.isfinite(number))

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """Gathered, where it is in pieces."""
        from torch.distributed.tensor import DTensor

        if not isinstance(tensor, DTensor):
            return tensor.detach()
        with torch.no_grad():
            gathered: torch.Tensor = tensor.full_tensor()
        return gathered

    def set_whole(self, parameter: torch.Tensor, value: torch.Tensor) -> None:
        """Copy this process's piece into place."""
        parameter.detach().copy_(self._piece(parameter, value))

    def _piece(self, parameter: Any, value: torch.Tensor) -> torch.Tensor:
        """`value` cut as `parameter` is. Every process has it whole: nothing is sent."""
        from torch.distributed.tensor import distribute_tensor

        value = value.to(self.device)
        return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)

    def optimizer_state(self, parameter: torch.nn.Parameter) -> dict[str, Any]:
        """Gathered, one tensor at a time; counters as they are."""
        state = self.optimizer.state.get(parameter, {})
        return {name: self.whole(value) if isinstance(value, torch.Tensor) else value for name, value in state.items()}

    def set_optimizer_state(self, parameter: torch.nn.Parameter, state: Mapping[str, Any]) -> None:
        """Moments cut as the parameter is; counters where the optimizer expects them."""
        if not state:
            return
        pieces = {
            name: self._piece(parameter, value) if isinstance(value, torch.Tensor) and value.ndim else value
            for name, value in state.items()
        }
        restore_state(self.optimizer, parameter, pieces)

    def extra_state(self) -> dict[str, Any]:
        """float16's loss scale."""
        return {"scaler": self.scaler.state_dict()} if self.skips_overflows else {}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        if self.skips_overflows and "growth_tracker" in state.get("scaler", {}):
            self.scaler.load_state_dict(state["scaler"])

    def close(self) -> None:
        """Leave the process group."""
        leave_process_group()


def layers_of(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The layers that repeat: those the model's author named as not to be split, else the longest list of modules."""
    from transformers import PreTrainedModel

    named = {
        name
        for module in model.modules()
        if isinstance(module, PreTrainedModel)
        for name in module._no_split_modules or ()
    }
    layers = [module for module in model.modules() if type(module).__name__ in named]
    if layers:
        return layers
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return list(max(lists, key=len, default=()))


def _cut_again(module: Any, arguments: Any, output: Any) -> None:
    """Without a backward pass to follow, torch would leave the outermost weights whole after the forward pass."""
    if not torch.is_grad_enabled():
        module.reshard()
