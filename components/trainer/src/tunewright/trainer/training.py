"""A training from its start, or from its newest checkpoint, to its model and its record."""

from __future__ import annotations

import sys
import time
from typing import Any

import torch

from tunewright.contracts.checkpoints import CHECKPOINT_FILE
from tunewright.contracts.errors import CheckpointCorrupted, TunewrightError
from tunewright.contracts.provenance import TrainingSummary
from tunewright.contracts.timestamps import utc_now
from tunewright.trainer import log
from tunewright.trainer.checkpointing import Checkpointing
from tunewright.trainer.checkpoints.finding import FoundCheckpoint, checkpoint_name, describe_damaged, open_checkpoint
from tunewright.trainer.checkpoints.loading import (
    agree_on_checkpoint,
    continuation_note,
    describe_continuation,
    load_checkpoint,
    load_trained,
)
from tunewright.trainer.checkpoints.random_states import process_seed, set_determinism
from tunewright.trainer.checkpoints.retention import remove_torn_checkpoints
from tunewright.trainer.evaluation.evaluating import evaluate
from tunewright.trainer.evaluation.stopping import Standing, early_stop_words, is_due, judge, stops_early
from tunewright.trainer.final_model import FinalModel, ModelOrigin, chat_template_of, make_origin, write_model
from tunewright.trainer.interruption import Interruption
from tunewright.trainer.job import TrainingJob
from tunewright.trainer.job_record import record_success
from tunewright.trainer.metrics import forget_later_lines
from tunewright.trainer.observers import open_observers
from tunewright.trainer.session import Progress, Session, open_session
from tunewright.trainer.step import StepResult, run_step
from tunewright.trainer.strategies.choosing import start_engine
from tunewright.trainer.strategies.engine import Engine
from tunewright.trainer.summary import (
    describe_hardware,
    determinism_record,
    digest_of_loaded_model,
    installed_packages,
    note_failure,
    python_version,
    write_summary,
)
from tunewright.trainer.timing import IntervalClock, peak_memory_bytes


def run_training(job: TrainingJob, interruption: Interruption | None = None) -> None:
    """Train `job` in this process, one of all its processes. Every file it leaves is whole.

    Raises TrainingDiverged, InvalidExperiment and other errors of the tree, and RunStopped once `interruption` has
    asked for the end and the checkpoint is saved; what went wrong is in `training.json` too.
    """
    engine = None
    try:
        set_determinism(job.experiment.training.deterministic, torch.cuda.is_available())
        engine = start_engine(job.experiment)
        _train(job, engine, interruption or Interruption())
    except Exception as error:
        if engine is None or engine.is_main:
            note_failure(
                job, error.message if isinstance(error, TunewrightError) else f"{type(error).__name__}: {error}"
            )
        raise
    finally:
        if engine is not None:
            engine.close()


def _train(job: TrainingJob, engine: Engine, interruption: Interruption) -> None:
    started_at = utc_now()
    found = _tidy_up(job, engine)
    session = open_session(job, engine)
    if found is not None:
        _go_on_from(session, found)
    summary = _start_summary(session, started_at, found)
    if engine.is_main:
        write_summary(job, summary)
        log.say_start(session, found)
        if found is not None and (note := continuation_note(found, engine)):
            log.say(f"note: {note}")
        session.observers = open_observers(job)
    for observer in session.observers:
        observer.started(session.progress.step)
    try:
        with Checkpointing(session, interruption) as checkpointing:
            train_steps(session, checkpointing)
        copies = checkpointing.describe_copies()
        _finish(session, summary.model_copy(update={"checkpoint_copies": copies}))
    finally:
        for observer in session.observers:
            observer.closed()
    engine.barrier()


def _tidy_up(job: TrainingJob, engine: Engine) -> FoundCheckpoint | None:
    """Remove what a killed attempt left half-done, and find the checkpoint to go on from."""
    job.run_dir.checkpoints.mkdir(parents=True, exist_ok=True)
    found = agree_on_checkpoint(job, engine)
    if engine.is_main:
        remove_torn_checkpoints(job.run_dir.checkpoints)
        forget_later_lines(job.run_dir.metrics, found.manifest.step if found else 0)
        job.run_dir.provenance.unlink(missing_ok=True)  # the record of an attempt that ended otherwise
    return found


def _go_on_from(session: Session, found: FoundCheckpoint) -> None:
    load_checkpoint(found, session.engine, session.trained)
    session.progress = Progress(step=found.manifest.step, **found.manifest.position["progress"])
    if not _evaluations_count(session):
        session.progress.take(Standing())


def _evaluations_count(session: Session) -> bool:
    """Whether the evaluations so far compare with those to come, and the best model is there where it is kept.

    A run may go on with another `[evaluation]`.
    """
    progress, evaluation, best = session.progress, session.evaluation, session.progress.best_evaluation_step
    if evaluation is None or best is None or evaluation.name != progress.evaluated_on:
        return False
    path = session.job.run_dir.checkpoints / checkpoint_name(best) / CHECKPOINT_FILE
    return not session.keeps_best or path.is_file()


def train_steps(session: Session, checkpointing: Checkpointing) -> None:
    """All steps that are left, with their metrics and checkpoints."""
    interval = IntervalClock(session.called.cost, session.called.peak_tflops, session.engine.num_processes)
    before_seconds, started = session.progress.elapsed_seconds, time.monotonic()
    while not is_last(session):
        session.phases.begin_step(is_logged(session, session.progress.step + 1))
        result = run_step(session)
        interval.step_done(result.plan, result.filler_tokens)
        progress = session.progress
        progress.step += 1
        progress.tokens += result.plan.num_tokens
        progress.elapsed_seconds = before_seconds + time.monotonic() - started
        progress.last_loss = result.loss
        progress.first_loss = result.loss if progress.first_loss is None else progress.first_loss
        if is_logged(session, progress.step) and session.engine.is_main:
            _log_step(session, result, interval)
        with session.phases.phase("evaluation"):
            is_new_best = _evaluate_if_due(session)
        is_saved = is_checkpointed(session) or (is_new_best and session.keeps_best)
        with session.phases.phase("checkpoint"):
            checkpointing.after_step(is_saved, is_last(session))


def is_last(session: Session) -> bool:
    """Whether the step just done is the last: of all, or because evaluations got no better."""
    evaluations = session.progress.evaluations_since_best
    return session.progress.step >= session.max_steps or stops_early(session.job.experiment.evaluation, evaluations)


def is_logged(session: Session, step: int) -> bool:
    """Whether step `step` (the first is 1) gets a line in the metrics: every so many do, and the last."""
    return step % session.job.experiment.training.log_every_steps == 0 or step == session.max_steps


def is_checkpointed(session: Session) -> bool:
    """Whether the step just done is followed by a checkpoint: as the experiment says, and the last always.

    A run that dies while it writes its model then has nothing to train again.
    """
    step = session.progress.step
    every = session.job.experiment.checkpoint.every_steps or session.order.steps_per_epoch
    return step % every == 0 or is_last(session)


def _evaluate_if_due(session: Session) -> bool:
    """Evaluate where the step just done is followed by that. Gives whether the model is the best so far."""
    progress, spec = session.progress, session.job.experiment.evaluation
    due = is_due(spec, progress.step, session.order.steps_per_epoch, session.max_steps)
    if session.evaluation is None or not due:
        return False
    found = evaluate(session, session.evaluation)
    standing = judge(progress.standing, progress.step, found.loss)
    progress.take(standing)
    progress.evaluated_on = session.evaluation.name
    for observer in session.observers:
        observer.logged(found.line(progress.step))
    return standing.best_evaluation_step == progress.step


def _log_step(session: Session, result: StepResult, interval: IntervalClock) -> None:
    progress = session.progress
    line: dict[str, Any] = {
        "step": progress.step,
        "max_steps": session.max_steps,
        "epoch": round(progress.step / session.order.steps_per_epoch, 6),
        "loss": result.loss,
        "learning_rate": result.learning_rate,
        "grad_norm": result.grad_norm if result.grad_norm < float("inf") else None,
        "tokens": progress.tokens,
        **interval.taken(session.phases.between_steps),
        "elapsed_seconds": round(progress.elapsed_seconds, 3),
        "peak_memory_bytes": peak_memory_bytes(session.engine.device),
        "seconds": session.phases.taken(),
        **result.metrics,
    }
    for observer in session.observers:
        observer.logged(line)


def _notify(training: TrainingJob, hook: str, **arguments: Any) -> None:
    for complaint in training.host.notify(hook, **arguments):
        print(complaint, file=sys.stderr)


def _start_summary(session: Session, started_at: str, found: FoundCheckpoint | None) -> TrainingSummary:
    job, engine = session.job, session.engine
    seed = job.experiment.seed
    return TrainingSummary(
        started_at=started_at,
        model_sha256=digest_of_loaded_model(job) if engine.is_main else None,
        steps=session.progress.step,
        tokens=session.progress.tokens,
        resumed_from_step=found.manifest.step if found else None,
        resumed_from=describe_continuation(found, engine) if found else None,
        damaged_checkpoints=describe_damaged(job.run_dir.checkpoints),
        seeds={"experiment": seed, **{f"process {r}": process_seed(seed, r) for r in range(engine.num_processes)}},
        engine={**engine.describe(), "computing": session.called.describe()},
        determinism=_determinism(engine, found),
        hardware=describe_hardware(),
        packages=installed_packages(),
        python=python_version(),
        num_processes=engine.num_processes,
        plugins=job.host.versions,
    )


def _determinism(engine: Engine, found: FoundCheckpoint | None) -> dict[str, Any]:
    record = determinism_record(engine.device.type == "cuda", engine.num_processes)
    note = continuation_note(found, engine) if found else ""
    return {**record, "not_deterministic": [*record["not_deterministic"], note]} if note else record


def _finish(session: Session, summary: TrainingSummary) -> None:
    """The model, what was seen, and last of all the record."""
    progress, model = session.progress, session.trained.model
    ended_early = _words_of_early_stop(session)
    steps, loss = _take_best(session) if session.keeps_best else (progress.step, progress.last_loss)
    origin = make_origin(session.job, steps, loss, progress.best_evaluation_loss if session.keeps_best else None)
    variant = session.trained.variant
    saved = {name for name, tensor in model.state_dict(keep_vars=True).items() if variant.is_saved(name, tensor)}
    weights = session.engine.model_state(model, saved.__contains__)
    if session.engine.is_main:
        ended = {"steps": progress.step, "ended_early": ended_early}
        names = ("tokens", "first_loss", "last_loss", "best_evaluation_loss", "best_evaluation_step")
        seen = summary.model_copy(update={**{name: getattr(progress, name) for name in names}, **ended})
        _write_results(session, seen, origin, weights)


def _words_of_early_stop(session: Session) -> str | None:
    """Why the training ended before its last step, told in the log too; None where it did not."""
    progress = session.progress
    if progress.step >= session.max_steps:
        return None
    words = early_stop_words(progress.step, session.max_steps, progress.standing)
    if session.engine.is_main:
        log.say(words)
    return words


def _take_best(session: Session) -> tuple[int, float | None]:
    """Put the best checkpoint's weights into the model. Gives its step and its training loss. Collective."""
    progress = session.progress
    if progress.best_evaluation_step is None or progress.best_evaluation_step == progress.step:
        return progress.step, progress.last_loss
    best = _open_best(session.job, progress.best_evaluation_step)
    load_trained(best, session.engine, session.trained.model)
    if session.engine.is_main:
        log.say(f"best evaluation: {progress.best_evaluation_loss:.4f}, after step {best.manifest.step}: that model")
    return best.manifest.step, best.manifest.position["progress"]["last_loss"]


def _open_best(job: TrainingJob, step: int) -> FoundCheckpoint:
    try:
        return open_checkpoint(job, step)
    except CheckpointCorrupted as error:
        hint = "that was the best model; with `evaluation.keep_best = false` the same launch writes the last one"
        raise CheckpointCorrupted(error.message, hint) from None


def _write_results(
    session: Session, summary: TrainingSummary, origin: ModelOrigin, weights: dict[str, torch.Tensor]
) -> None:
    job, trained = session.job, session.trained
    template = chat_template_of(session.manifest)
    write_model(
        job.run_dir.model, FinalModel(trained.variant, trained.model, session.context, origin, template, weights)
    )
    published: dict[str, Any] = {}
    for observer in session.observers:
        published |= observer.model_written()
    write_summary(job, summary.model_copy(update={"published": published, "ended_at": utc_now()}))
    record = record_success(job, summary.started_at)
    log.say(f"model: {job.run_dir.model}")
    for observer in session.observers:
        observer.finished(record)
    _notify(job, "tunewright_run_finished", record=record)
