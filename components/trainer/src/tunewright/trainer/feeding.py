"""What each optimizer step computes in this process, laid out as tensors one step ahead."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunewright.trainer.batches import Batch, count_tokens, count_trained, make_batch
from tunewright.trainer.dataset import TokenSequence
from tunewright.trainer.sharing import share_evenly

if TYPE_CHECKING:
    from tunewright.trainer.session import Session


@dataclass(frozen=True)
class StepPlan:
    """One process's part of an optimizer step, and what all of it together is."""

    batches: tuple[Batch, ...]
    """This process's forward passes."""

    filler: Batch
    """For a pass that only keeps step with other processes: the shortest example there is."""

    weight: int
    """What the loss is a mean over: the weight of all examples of the step."""

    num_tokens: int
    """Of all processes."""

    num_trained: int
    """Of all processes."""

    squared_lengths: int
    """The sum of the squares of all conversations' lengths: what attention's work grows with."""


def plan_step(session: Session, step: int) -> StepPlan:
    """The plan of optimizer step `step` (the first is 0). It depends on nothing else, and no other process is asked."""
    training, engine = session.job.experiment.training, session.engine
    rows = [session.dataset.sequences_of(row) for row in session.order.rows_of(step)]
    sequences = [sequence for row in rows for sequence in row]
    examples = examples_of(session, sequences)
    pieces: Sequence[Sequence[TokenSequence]] = rows if session.sequences_apart else examples
    most = training.micro_batch_size if session.sequences_apart else 1
    share = share_evenly([count_tokens(piece) for piece in pieces], engine.num_processes, most)[engine.rank]
    members = [[sequence for piece in one for sequence in pieces[piece]] for one in share]
    return StepPlan(
        batches=tuple(_pinned(session, make_batch(one)) for one in members if one),
        filler=_pinned(session, make_batch(min(examples, key=count_tokens))),
        weight=max(1, session.objective.weight_of(sequences)),
        num_tokens=count_tokens(sequences),
        num_trained=count_trained(sequences),
        squared_lengths=sum(len(sequence.ids) ** 2 for sequence in sequences),
    )


def examples_of(session: Session, sequences: Sequence[TokenSequence]) -> list[Sequence[TokenSequence]]:
    """`sequences` by examples: what a forward pass must have at least."""
    size = session.objective.sequences_per_example
    return [sequences[start : start + size] for start in range(0, len(sequences), size)]


def _pinned(session: Session, batch: Batch) -> Batch:
    """In memory that a GPU reads by itself."""
    return batch.pinned() if session.engine.device.type == "cuda" else batch


class StepFeed:
    """Gives the plan of each step; while a step is computed, a thread lays out the one after it.

    The thread reads the dataset and makes tensors. It draws no random number, and what it made for a step that does
    not come (a training that ends, or goes on elsewhere) is thrown away.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="step-feed")
        self._ahead: tuple[int, Future[StepPlan]] | None = None

    def take(self, step: int) -> StepPlan:
        """The plan of `step`; the next one is begun."""
        ahead, self._ahead = self._ahead, None
        plan = ahead[1].result() if ahead is not None and ahead[0] == step else plan_step(self._session, step)
        if step + 1 < self._session.max_steps:
            self._ahead = (step + 1, self._thread.submit(plan_step, self._session, step + 1))
        return plan
