"""What the job's log says: plain lines on stdout, of the main process alone."""

from __future__ import annotations

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
    dtype, device, attention = session.called.dtype, session.engine.device, session.called.attention
    notes = [f"note: {note}" for note in session.called.notes(device)]
    return [
        f"model: {type(transformer).__name__}, {total:,} parameters, {trained:,} trained ({trained / total:.2%}), "
        f"variant {session.job.variant.name}",
        f"computing in {dtype} on {device}, attention {attention}",
        *notes,
    ]


def session_parameters(session: Session) -> int:
    """All parameters, those in four bits counted one by one."""
    return int(transformer_of(session.trained.model).num_parameters())


def _data_lines(session: Session) -> list[str]:
    manifest, packing = session.manifest, session.job.experiment.dataset.packing
    rows = f" in {len(session.dataset):,} packed rows" if packing else ""
    size = manifest.sequences_per_example
    examples = f"{manifest.rows // size:,} {'conversations' if size == 1 else 'pairs'}"
    lines = [f"data: {examples}{rows}, {manifest.tokens:,} tokens, {manifest.trained_tokens:,} trained"]
    if not session.sequences_apart:
        lines.append(
            "note: this model does not keep conversations of one row apart; each has a forward pass of its own"
        )
    return lines


def _batch_lines(session: Session) -> list[str]:
    experiment = session.job.experiment
    training, tokens = experiment.training, experiment.dataset.max_length_tokens
    if not experiment.dataset.packing:
        tokens *= session.objective.sequences_per_example
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
    if "evaluation_loss" in line:
        say_evaluation(line)
    if "loss" in line:
        say_step(line)


def say_evaluation(line: dict[str, Any]) -> None:
    """An evaluation in words."""
    prefix, told = "evaluation_", ("evaluation_loss", "evaluation_tokens", "evaluation_seconds")
    others = [name for name in line if name.startswith(prefix) and name not in told]
    metrics = "".join(f"  {name.removeprefix(prefix)} {line[name]:.4f}" for name in others)
    say(
        f"step {line['step']}  evaluation loss {line['evaluation_loss']:.4f}{metrics}  "
        f"{line['evaluation_tokens']:,} tokens in {line['evaluation_seconds']:.1f} s"
    )


def say_step(line: dict[str, Any]) -> None:
    """A logged step in words."""
    norm = "overflow" if line["grad_norm"] is None else f"{line['grad_norm']:.3f}"
    ranking = "".join(f"{name} {line[name]:.3f}  " for name in ("accuracy", "margin") if name in line)
    say(
        f"step {line['step']}/{line['max_steps']}  loss {line['loss']:.4f}  lr {line['learning_rate']:.3e}  "
        f"grad norm {norm}  {ranking}{line['tokens_per_second']:,.0f} tokens/s"
    )


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
