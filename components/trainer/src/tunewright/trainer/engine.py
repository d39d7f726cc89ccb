"""How processes share the work: devices, the process group, Accelerate, and the few collectives the trainer needs."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from typing import Any

import torch

from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.contracts.experiment import ExperimentSpec

_PRECISION = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


class Engine:
    """Data-parallel training of one process among `num_processes`. One per process; `close()` at the end.

    Other strategies will be other classes with these methods.
    """

    def __init__(self, experiment: ExperimentSpec) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs

        on_gpu = torch.cuda.is_available()
        _refuse_half_precision(experiment, on_gpu)
        _join_process_group(on_gpu)
        self.accelerator = Accelerator(
            cpu=not on_gpu,
            mixed_precision=_PRECISION[experiment.model.dtype],
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
        self.rank: int = self.accelerator.process_index
        self.num_processes: int = self.accelerator.num_processes
        self.device: torch.device = self.accelerator.device
        self.skips_overflows = experiment.model.dtype == "float16"
        """Whether a step with an infinite gradient is left out and tried with another scale, as float16 needs."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def prepare(self, model: Any, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        """The model as it is called in training, wrapped for this strategy, and its optimizer."""
        prepared: tuple[Any, Any] = self.accelerator.prepare(model, optimizer)
        return prepared

    @contextlib.contextmanager
    def accumulation(self, model: Any, is_last: bool) -> Iterator[None]:
        """Around one forward and backward pass: gradients are averaged over the processes in the last one only."""
        if is_last:
            yield
            return
        with self.accelerator.no_sync(model):
            yield

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of `loss`."""
        self.accelerator.backward(loss)

    def clip(self, parameters: list[torch.nn.Parameter], max_norm: float) -> float:
        """Scale the gradients down to `max_norm` (0: leave them). Gives the norm they had."""
        norm = self.accelerator.clip_grad_norm_(parameters, max_norm or math.inf)
        return float(norm)

    def sum_over_processes(self, value: float) -> float:
        """The sum of every process's `value`."""
        if self.num_processes == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64, device=self.device)
        return float(self.accelerator.reduce(total, reduction="sum")[0])

    def gather_objects(self, value: object) -> list[Any]:
        """Every process's `value`, in the order of ranks."""
        if self.num_processes == 1:
            return [value]
        gathered: list[Any] = [None] * self.num_processes
        torch.distributed.all_gather_object(gathered, value)
        return gathered

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.accelerator.wait_for_everyone()

    def close(self) -> None:
        """Leave the process group, and let the next engine of this process choose its precision anew."""
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _refuse_half_precision(experiment: ExperimentSpec, on_gpu: bool) -> None:
    if experiment.model.dtype == "float16" and not on_gpu:
        problem = Problem("model.dtype", "float16 needs a GPU", "use bfloat16 or float32")
        raise InvalidExperiment.from_problems(experiment.name, [problem])


def _join_process_group(on_gpu: bool) -> None:
    """Meet the other processes, where there are any.

    The keys of each attempt have a prefix of their own: torch's agent keeps its store over restarts, and a restarted
    process would read the address of a dead one (torch 2.13, gloo).
    """
    from torch import distributed
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # torch does not mark them as its own

    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or distributed.is_initialized():
        return
    rank = int(os.environ["RANK"])
    is_host = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), world, is_master=is_host)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=PrefixStore(f"attempt_{attempt}", store),
        rank=rank,
        world_size=world,
    )
