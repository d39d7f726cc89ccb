"""What every strategy offers the trainer: a way to share model, gradients and optimizer among processes."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch

from tunewright.contracts.experiment import ExperimentSpec
from tunewright.trainer.computing.precision import computed_dtype

MakeOptimizer = Callable[[torch.nn.Module], torch.optim.Optimizer]
RefuseNorm = Callable[[float], None]


class Engine(abc.ABC):
    """One process's part in a training of `num_processes`. Made by every process; `close()` at the end.

    Gradients are averaged over the processes, so the trainer multiplies each loss by `num_processes`. What is called
    *collective* is called by all processes in the same order. Whole tensors are what a single process would have.
    """

    strategy: ClassVar[str]
    """Its name in `training.strategy`."""

    rank: int
    num_processes: int

    device: torch.device
    """Where this process computes."""

    skips_overflows: bool = False
    """Whether a step with an infinite gradient is left out and tried with another scale, as float16 needs."""

    optimizer: torch.optim.Optimizer
    """torch's own, beneath whatever wraps it, once `prepare` was called: the schedule writes learning rates there."""

    def __init__(self, experiment: ExperimentSpec) -> None:
        self.experiment = experiment

    @property
    def is_main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    @property
    def computed_in(self) -> str:
        """What forward passes compute in: `model.dtype`, or what is faster and more exact on this machine."""
        return computed_dtype(self.experiment.model.dtype, self.strategy, self.device)

    @property
    def loading_device(self) -> torch.device:
        """Where variants build the model. A strategy that cuts models in pieces has no room for a whole one."""
        return self.device

    @abc.abstractmethod
    def prepare(self, model: Any, make_optimizer: MakeOptimizer) -> Any:
        """The model as it is called in training, wrapped for this strategy. Collective.

        `make_optimizer` is called with the model whose parameters the optimizer gets.
        """

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """What really runs, read off the wrapped model and optimizer and not off the experiment: goes to the record."""

    def passes_to_make(self, own: int) -> int:
        """How many forward passes this process must make that has `own` of its own, in training or without gradients.

        Where each pass has to fetch weights or share gradients, all processes make as many: those that have no more
        make passes that count for nothing. Collective.
        """
        return own

    @abc.abstractmethod
    def accumulation(self, wrapped: Any, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Around one forward and backward pass: gradients have to be shared after the last one of a step only."""

    @abc.abstractmethod
    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of `loss`. Collective."""

    @abc.abstractmethod
    def apply(self, parameters: list[torch.nn.Parameter], max_norm: float, refuse: RefuseNorm) -> Applied:
        """Scale the gradients down to the global norm `max_norm` (0: leave them), update, and clear them. Collective.

        `refuse` is called with the norm they had, before anything is changed where the strategy knows it by then, and
        raises for one that is no number.
        """

    @abc.abstractmethod
    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """All of a parameter of the prepared model. Collective. It may be the parameter itself: do not write to it."""

    @abc.abstractmethod
    def set_whole(self, parameter: torch.Tensor, value: torch.Tensor) -> None:
        """Put `value`, which every process has whole, in the place of a parameter's. Collective."""

    @abc.abstractmethod
    def optimizer_state(self, parameter: torch.nn.Parameter) -> dict[str, Any]:
        """What the optimizer keeps of a parameter: whole tensors and numbers by name; empty before its first step.

        Collective.
        """

    @abc.abstractmethod
    def set_optimizer_state(self, parameter: torch.nn.Parameter, state: Mapping[str, Any]) -> None:
        """Put back what `optimizer_state` gave, in this or another number of processes. Collective."""

    def extra_state(self) -> dict[str, Any]:
        """What else must be in a checkpoint: float16's loss scale. Plain values and tensors."""
        return {}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027  (most strategies have none)
        """Put back what `extra_state` gave."""

    def model_state(self, model: Any, wanted: Callable[[str], bool]) -> dict[str, torch.Tensor]:
        """The wanted tensors of `model.state_dict()`, whole, on the main process's CPU; elsewhere nothing. Collective.

        They are gathered one by one. One that has two names, as tied embeddings have, is there once under both.
        """
        state: dict[str, torch.Tensor] = {}
        names: dict[int, str] = {}
        for name, tensor in model.state_dict(keep_vars=True).items():
            if not wanted(name):
                continue
            first = names.setdefault(id(tensor), name)
            whole = self.whole(tensor) if first == name else None
            if self.is_main:
                state[name] = state[first] if whole is None else whole.detach().cpu()
        return state

    def max_over_processes(self, value: float) -> float:
        """The greatest of all processes' `value`. Collective."""
        if self.num_processes == 1:
            return value
        greatest = torch.tensor([value], dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(greatest, torch.distributed.ReduceOp.MAX)
        return float(greatest[0])

    def sum_over_processes(self, value: float) -> float:
        """The sum of every process's `value`. Collective."""
        if self.num_processes == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return float(total[0])

    def gather_objects(self, value: object) -> list[Any]:
        """Every process's `value`, in the order of ranks. Collective."""
        if self.num_processes == 1:
            return [value]
        gathered: list[Any] = [None] * self.num_processes
        torch.distributed.all_gather_object(gathered, value)
        return gathered

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.num_processes > 1:
            torch.distributed.barrier()

    @abc.abstractmethod
    def close(self) -> None:
        """Leave the process group, and leave nothing behind that the next engine of this process would trip over."""


class Applied:
    """What became of a step's gradients."""

    def __init__(self, norm: float, was_skipped: bool = False) -> None:
        self.norm = norm
        """The global norm before clipping."""

        self.was_skipped = was_skipped
        """Whether float16 overflowed: nothing was changed but the loss scale."""


@contextlib.contextmanager
def nothing_special() -> Iterator[None]:
    """A context that does nothing."""
    yield
