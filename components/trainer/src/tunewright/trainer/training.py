"""A training from its start, or from its newest checkpoint, to its model and its record."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import torch

from tunewright.contracts.errors import TunewrightError
from tunewright.contracts.provenance import TrainingSummary, compose_record, write_record
from tunewright.contracts.status import CauseKind, JobState, JobStatus
from tunewright.contracts.timestamps import utc_now
from tunewright.trainer import log
from tunewright.trainer.checkpoints.finding import FoundCheckpoint, find_checkpoint
from tunewright.trainer.checkpoints.loading import load_checkpoint
from tunewright.trainer.checkpoints.random_states import make_deterministic, process_seed
from tunewright.trainer.checkpoints.saving import remove_old_checkpoints, remove_torn_checkpoints, save_checkpoint
from tunewright.trainer.final_model import FinalModel, chat_template_of, make_origin, write_model
from tunewright.trainer.job import TrainingJob
from tunewright.trainer.metrics import forget_later_lines
from tunewright.trainer.observers import open_observers
from tunewright.trainer.session import Progress, Session, open_session
from tunewright.trainer.step import StepResult, run_step
from tunewright.trainer.strategies.choosing import start_engine
from tunewright.trainer.strategies.engine import Engine
from tunewright.trainer.summary import (
    describe_hardware,
    determinism_record,
    installed_packages,
    note_failure,
    python_version,
    write_summary,
)


def run_training(job: TrainingJob) -> None:
    """Train `job` in this process, one of all its processes. Every file it leaves is whole.

    Raises TrainingDiverged, InvalidExperiment and other errors of the tree; what went wrong is in `training.json` too.
    """
    engine = None
    try:
        make_deterministic(torch.cuda.is_available())
        engine = start_engine(job.experiment)
        _train(job, engine)
    except Exception as error:
        if engine is None or engine.is_main:
            note_failure(
                job, error.message if isinstance(error, TunewrightError) else f"{type(error).__name__}: {error}"
            )
        raise
    finally:
        if engine is not None:
            engine.close()


def _train(job: TrainingJob, engine: Engine) -> None:
    started_at = utc_now()
    found = _tidy_up(job, engine)
    session = open_session(job, engine)
    if found is not None:
        _go_on_from(session, found)
    summary = _start_summary(session, started_at, found)
    if engine.is_main:
        write_summary(job, summary)
        log.say_start(session, found)
        session.observers = open_observers(job)
    for observer in session.observers:
        observer.started(session.progress.step)
    try:
        train_steps(session)
        _finish(session, summary)
    finally:
        for observer in session.observers:
            observer.closed()
    engine.barrier()


def _tidy_up(job: TrainingJob, engine: Engine) -> FoundCheckpoint | None:
    """Remove what a killed attempt left half-done, and find the checkpoint to go on from."""
    job.run_dir.checkpoints.mkdir(parents=True, exist_ok=True)
    found = find_checkpoint(job)
    engine.barrier()
    if engine.is_main:
        remove_torn_checkpoints(job.run_dir.checkpoints)
        forget_later_lines(job.run_dir.metrics, found.manifest.step if found else 0)
        job.run_dir.provenance.unlink(missing_ok=True)  # the record of an attempt that ended otherwise
    return found


def _go_on_from(session: Session, found: FoundCheckpoint) -> None:
    load_checkpoint(found, session.engine, session.trained)
    session.progress = Progress(step=found.manifest.step, **found.manifest.position["progress"])


def train_steps(session: Session) -> None:
    """All steps that are left, with their metrics and checkpoints."""
    clock = log.StepClock(session.progress.tokens)
    before_seconds, started = session.progress.elapsed_seconds, time.monotonic()
    while session.progress.step < session.max_steps:
        result = run_step(session)
        progress = session.progress
        progress.step += 1
        progress.tokens += result.num_tokens
        progress.elapsed_seconds = before_seconds + time.monotonic() - started
        progress.last_loss = result.loss
        progress.first_loss = result.loss if progress.first_loss is None else progress.first_loss
        if is_logged(session) and session.engine.is_main:
            _log_step(session, result, clock)
        if is_checkpointed(session):
            _save(session)


def is_logged(session: Session) -> bool:
    """Whether the step just done gets a line in the metrics: every so many, and the last."""
    step = session.progress.step
    return step % session.job.experiment.training.log_every_steps == 0 or step == session.max_steps


def is_checkpointed(session: Session) -> bool:
    """Whether the step just done is followed by a checkpoint: as the experiment says, and the last always.

    A run that dies while it writes its model then has nothing to train again.
    """
    step = session.progress.step
    every = session.job.experiment.checkpoint.every_steps or session.order.steps_per_epoch
    return step % every == 0 or step == session.max_steps


def _log_step(session: Session, result: StepResult, clock: log.StepClock) -> None:
    progress = session.progress
    line: dict[str, Any] = {
        "step": progress.step,
        "max_steps": session.max_steps,
        "epoch": round(progress.step / session.order.steps_per_epoch, 6),
        "loss": result.loss,
        "learning_rate": result.learning_rate,
        "grad_norm": result.grad_norm if result.grad_norm < float("inf") else None,
        "tokens": progress.tokens,
        "tokens_per_second": round(clock.tokens_per_second(progress.tokens), 1),
        "padding_ratio": 0.0,  # rows are laid end to end: there is none
        "elapsed_seconds": round(progress.elapsed_seconds, 3),
        **result.metrics,
    }
    for observer in session.observers:
        observer.logged(line)


def _save(session: Session) -> None:
    """A checkpoint; once it is whole, older ones go."""
    epoch, steps_in_epoch = divmod(session.progress.step, session.order.steps_per_epoch)
    progress = {name: value for name, value in vars(session.progress).items() if name != "step"}
    position = {"epoch": epoch, "steps_in_epoch": steps_in_epoch, "progress": progress}
    saved = save_checkpoint(session.job, session.engine, session.trained, session.progress.step, position)
    if saved is None:
        return
    remove_old_checkpoints(session.job.run_dir.checkpoints, session.job.experiment.checkpoint.keep_last)
    log.say(f"checkpoint: {saved.path}")
    for observer in session.observers:
        observer.checkpoint_saved(saved)
    _notify(session.job, "tunewright_checkpoint_saved", checkpoint=saved, job=session.job.job)


def _notify(training: TrainingJob, hook: str, **arguments: Any) -> None:
    for complaint in training.host.notify(hook, **arguments):
        print(complaint, file=sys.stderr)


def _start_summary(session: Session, started_at: str, found: FoundCheckpoint | None) -> TrainingSummary:
    job, engine = session.job, session.engine
    seed = job.experiment.seed
    return TrainingSummary(
        started_at=started_at,
        steps=session.progress.step,
        tokens=session.progress.tokens,
        resumed_from_step=found.manifest.step if found else None,
        seeds={"experiment": seed, **{f"process {r}": process_seed(seed, r) for r in range(engine.num_processes)}},
        engine=engine.describe(),
        determinism=determinism_record(engine.device.type == "cuda", engine.num_processes),
        hardware=describe_hardware(),
        packages=installed_packages(),
        python=python_version(),
        num_processes=engine.num_processes,
        plugins=job.host.versions,
    )


def _finish(session: Session, summary: TrainingSummary) -> None:
    """The model, what was seen, and last of all the record."""
    variant, model = session.trained.variant, session.trained.model
    saved = {name for name, tensor in model.state_dict(keep_vars=True).items() if variant.is_saved(name, tensor)}
    weights = session.engine.model_state(model, saved.__contains__)
    if session.engine.is_main:
        _write_results(session, summary, weights)


def _write_results(session: Session, summary: TrainingSummary, weights: dict[str, torch.Tensor]) -> None:
    job, progress, trained = session.job, session.progress, session.trained
    origin = make_origin(job, progress.step, progress.last_loss)
    template = chat_template_of(session.manifest)
    write_model(
        job.run_dir.model, FinalModel(trained.variant, trained.model, session.context, origin, template, weights)
    )
    for observer in session.observers:
        observer.model_written()
    ended = {name: getattr(progress, name) for name in ("tokens", "first_loss", "last_loss")}
    write_summary(job, summary.model_copy(update={**ended, "steps": progress.step, "ended_at": utc_now()}))
    status = JobStatus(
        state=JobState.SUCCEEDED,
        cause=CauseKind.EXIT,
        exit_code=0,
        attempt=int(os.environ.get("TUNEWRIGHT_ATTEMPT", "0")),
        started_at=summary.started_at,
        ended_at=utc_now(),
    )
    record = compose_record(job.run_dir, status, utc_now())
    write_record(job.run_dir, record)
    log.say(f"model: {job.run_dir.model}")
    for observer in session.observers:
        observer.finished(record)
    _notify(job, "tunewright_run_finished", record=record)
