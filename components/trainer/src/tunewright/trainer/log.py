"""What the job's log says: plain lines on stdout, of the main process alone."""

from __future__ import annotations

import time
from typing import Any

from tunewright.trainer.checkpoints.finding import FoundCheckpoint
from tunewright.trainer.session import Session, transformer_of


def say(line: str) -> None:
    """One line, at once."""
    print(line, flush=True)


def say_start(session: Session, found: FoundCheckpoint | None) -> None:
    """What is trained, on what, in which portions, and what follows from what."""
    for line in (*_model_lines(session), *_data_lines(session), *_batch_lines(session)):
        say(line)
    if found is not None:
        say(f"going on from {found.path.name}, with step {found.manifest.step + 1}")


def _model_lines(session: Session) -> list[str]:
    total = session_parameters(session)
    trained = sum(parameter.numel() for parameter in session.parameters)
    transformer = transformer_of(session.trained.model)
    attention = getattr(transformer.config, "_attn_implementation", "?")
    return [
        f"model: {type(transformer).__name__}, {total:,} parameters, {trained:,} trained ({trained / total:.2%}), "
        f"variant {session.job.variant.name}",
        f"computing in {session.job.experiment.model.dtype} on {session.engine.device}, attention {attention}",
    ]


def session_parameters(session: Session) -> int:
    """All parameters, those in four bits counted one by one."""
    return int(transformer_of(session.trained.model).num_parameters())


def _data_lines(session: Session) -> list[str]:
    manifest, packing = session.manifest, session.job.experiment.dataset.packing
    rows = f" in {len(session.dataset):,} packed rows" if packing else ""
    lines = [
        f"data: {manifest.rows:,} conversations{rows}, {manifest.tokens:,} tokens, {manifest.trained_tokens:,} trained"
    ]
    if not session.sequences_apart:
        lines.append(
            "note: this model does not keep conversations of one row apart; each has a forward pass of its own"
        )
    return lines


def _batch_lines(session: Session) -> list[str]:
    experiment = session.job.experiment
    training, tokens = experiment.training, experiment.dataset.max_length_tokens
    epochs = session.max_steps / session.order.steps_per_epoch
    processes = _count(session.engine.num_processes, "process", "processes")
    return [
        f"batch: {training.batch_size} rows x up to {tokens} tokens = up to {training.batch_size * tokens:,} tokens "
        f"a step = {processes} x {training.micro_batch_size} rows x accumulation "
        f"{experiment.accumulation_steps}",
        f"steps: {session.max_steps:,} ({session.order.steps_per_epoch:,} per epoch, {epochs:.2f} epochs)",
    ]


def say_metrics(line: dict[str, Any]) -> None:
    """A line of metrics in words."""
    if "loss" in line:
        say_step(line)


def say_step(line: dict[str, Any]) -> None:
    """A logged step in words."""
    norm = "overflow" if line["grad_norm"] is None else f"{line['grad_norm']:.3f}"
    say(
        f"step {line['step']}/{line['max_steps']}  loss {line['loss']:.4f}  lr {line['learning_rate']:.3e}  "
        f"grad norm {norm}  {line['tokens_per_second']:,.0f} tokens/s"
    )


class StepClock:
    """Tokens per second since the line before."""

    def __init__(self, tokens: int) -> None:
        self._tokens, self._time = tokens, time.monotonic()

    def tokens_per_second(self, tokens: int) -> float:
        """The speed since the last call, `tokens` having been seen by now."""
        now = time.monotonic()
        speed = (tokens - self._tokens) / max(now - self._time, 1e-9)
        self._tokens, self._time = tokens, now
        return speed


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
