"""An `evaluate` job from its start, or from the rows that an earlier attempt has done, to its results and record."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tunewright.contracts.datasets import DatasetManifest
from tunewright.contracts.errors import InvalidExperiment, Problem, TunewrightError
from tunewright.contracts.experiment import EvaluateSpec, ExperimentSpec
from tunewright.contracts.files import write_json_atomically
from tunewright.contracts.provenance import TrainingSummary
from tunewright.contracts.spec import digest_of
from tunewright.contracts.timestamps import utc_now
from tunewright.trainer import log
from tunewright.trainer.checkpoints.random_states import seed_everything, set_determinism
from tunewright.trainer.dataset import TokenDataset, TokenSequence
from tunewright.trainer.job import TrainingJob, read_verified_manifest
from tunewright.trainer.job_record import begin_summary, record_success
from tunewright.trainer.metrics import forget_later_lines
from tunewright.trainer.observers import Observer, open_observers
from tunewright.trainer.scoring.answers import compared
from tunewright.trainer.scoring.asking import ask, end_tokens
from tunewright.trainer.scoring.generating import generate_answers
from tunewright.trainer.scoring.harness import refuse_unknown_tasks, run_harness
from tunewright.trainer.scoring.losses import loss_sums
from tunewright.trainer.scoring.model import ScoredModel, load_scored_model
from tunewright.trainer.scoring.report import evaluation_document, refuse_no_number
from tunewright.trainer.scoring.rows import RowResult, RowStore, write_rows
from tunewright.trainer.scoring.sharing import batches_of, plan_batches
from tunewright.trainer.session import transformer_of
from tunewright.trainer.strategies.choosing import start_engine
from tunewright.trainer.strategies.engine import Engine
from tunewright.trainer.summary import note_failure, write_summary

_SECONDS_BETWEEN_LINES = 1.0


@dataclass(frozen=True)
class Scoring:
    """One process's share of an evaluation."""

    job: TrainingJob
    engine: Engine
    manifest: DatasetManifest
    scored: ScoredModel
    sequences: Sequence[TokenSequence]
    """The rows that are measured, all of them."""

    ends: frozenset[int]
    """The tokens that end an answer."""

    store: RowStore

    @property
    def settings(self) -> EvaluateSpec:
        """`[evaluate]` of the experiment."""
        return self.job.experiment.evaluate


def run_scoring(job: TrainingJob) -> None:
    """Measure the job's model in this process, one of all its processes. Every file it leaves is whole.

    Raises errors of the tree; what went wrong is in `training.json` too.
    """
    engine = None
    try:
        set_determinism(deterministic=True, on_gpu=torch.cuda.is_available())
        engine = start_engine(_one_model_a_process(job.experiment))
        _run(job, engine)
    except Exception as error:
        if engine is None or engine.is_main:
            note_failure(
                job, error.message if isinstance(error, TunewrightError) else f"{type(error).__name__}: {error}"
            )
        raise
    finally:
        if engine is not None:
            engine.close()


def _one_model_a_process(experiment: ExperimentSpec) -> ExperimentSpec:
    """Nothing is trained: each process has the model whole, whatever `[training]` says."""
    training = experiment.training.model_copy(update={"strategy": "ddp", "offload": "none"})
    return experiment.model_copy(update={"training": training})


def _run(job: TrainingJob, engine: Engine) -> None:
    summary = begin_summary(job, engine.num_processes, engine.device.type == "cuda") if engine.is_main else None
    scoring = _open(job, engine)
    if summary is not None:
        forget_later_lines(job.run_dir.metrics, 0)
        scoring.store.begin(_identity(scoring, summary.model_sha256))
    engine.barrier()
    observers = open_observers(job) if engine.is_main else ()
    try:
        started = time.monotonic()
        results = _measure(scoring, observers)
        if summary is not None:
            _finish(scoring, results, observers, summary, time.monotonic() - started)
    finally:
        for observer in observers:
            observer.closed()
    engine.barrier()


def _open(job: TrainingJob, engine: Engine) -> Scoring:
    manifest, settings = read_verified_manifest(job), job.experiment.evaluate
    refuse_unknown_tasks(settings)
    if manifest.sequences_per_example != 1:
        problem = Problem("dataset.mix", "holds pairs of answers, an evaluate job measures conversations")
        raise InvalidExperiment.from_problems(job.experiment.name, [problem])
    dataset = TokenDataset(job.dataset, manifest, packing=False)
    num_rows = min(settings.rows or len(dataset), len(dataset))
    sequences = [dataset.sequence(row) for row in range(num_rows)]
    seed_everything(job.experiment.seed)
    scored = load_scored_model(job, engine.device, manifest.vocabulary_size)
    return Scoring(job, engine, manifest, scored, sequences, _ends(scored, manifest, sequences), RowStore(job.run_dir))


def _ends(scored: ScoredModel, manifest: DatasetManifest, sequences: Sequence[TokenSequence]) -> frozenset[int]:
    tokenizer = scored.tokenizer
    special = [*tokenizer.all_special_ids, *(id for id, one in tokenizer.added_tokens_decoder.items() if one.special)]
    known = [manifest.eos_token_id, tokenizer.eos_token_id, *scored.own_ends]
    return end_tokens(sequences, special, [one for one in known if one is not None])


def _identity(scoring: Scoring, model_sha256: str | None) -> str:
    """What results of an earlier attempt must have in common with ours. `model_sha256` where the job cannot say it."""
    job = scoring.job
    return digest_of([job.experiment_digest, job.model.to_document(), model_sha256, scoring.manifest.digest])


def _measure(scoring: Scoring, observers: Sequence[Observer]) -> list[RowResult]:
    """The results of all rows, in order, on the main process; what there is of them elsewhere. Collective."""
    engine, done = scoring.engine, scoring.store.done()
    batches = plan_batches([len(one.ids) for one in scoring.sequences], scoring.settings.batch_size)
    mine = batches_of(batches, engine.rank, engine.num_processes)
    if engine.is_main:
        _say_start(scoring, len(done))
        for observer in observers:
            observer.started(0)
    progress = _Progress(sum(map(len, mine)), observers)
    found: list[RowResult] = []
    for batch in mine:
        if not all(row in done for row in batch):
            found += (results := _measure_batch(scoring, batch))
            scoring.store.add(engine.rank, results)
        progress.batch_done([scoring.sequences[row] for row in batch])
    rows = {one.row: one for part in engine.gather_objects(found) for one in part}
    return [one for _, one in sorted({**done, **rows}.items())]


def _measure_batch(scoring: Scoring, batch: Sequence[int]) -> list[RowResult]:
    sequences, settings = [scoring.sequences[row] for row in batch], scoring.settings
    trained = [len(one.predicted()) for one in sequences]
    losses: list[Any] = [None] * len(batch)
    if "loss" in settings.metrics:
        losses = loss_sums(scoring.scored, sequences)
    answers: list[dict[str, Any]] = [{} for _ in batch]
    if "exact_match" in settings.metrics:
        answers = _answers(scoring, batch, sequences)
    return [
        RowResult(row, len(one.ids), count, loss, **answer)
        for row, one, count, loss, answer in zip(batch, sequences, trained, losses, answers, strict=True)
    ]


def _answers(scoring: Scoring, batch: Sequence[int], sequences: Sequence[TokenSequence]) -> list[dict[str, Any]]:
    """What the model answers to each of the batch's rows, and whether that is right."""
    settings, manifest = scoring.settings, scoring.manifest
    questions = [ask(one, scoring.ends) for one in sequences]
    pad = manifest.pad_token_id if manifest.pad_token_id is not None else 0
    seed = scoring.job.experiment.seed + batch[0]  # the same, whichever process has the batch
    written = generate_answers(
        scoring.scored, [one.prompt for one in questions], settings, scoring.ends, pad, seed % 2**32
    )
    answers = []
    for question, ids in zip(questions, written, strict=True):
        generated, reference = _text(scoring, ids), _text(scoring, question.reference.tolist())
        answer, expected = compared(generated, settings), compared(reference, settings)
        answers.append({
            "generated": generated, "generated_tokens": len(ids), "reference": reference, "is_whole": question.is_whole,
            "answer": answer, "reference_answer": expected, "exact_match": answer is not None and answer == expected,
        })  # fmt: skip
    return answers


def _text(scoring: Scoring, ids: list[int]) -> str:
    text: str = scoring.scored.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


class _Progress:
    """Lines of `metrics.jsonl` while rows are measured: of those of the main process, which has as many as others."""

    def __init__(self, num_rows: int, observers: Sequence[Observer]) -> None:
        self._num_rows, self._observers = num_rows, observers
        self._started = self._told = time.monotonic()
        self._rows = self._tokens = 0

    def batch_done(self, sequences: Sequence[TokenSequence]) -> None:
        """Count a batch; tell of it when it is time to, and of the last one."""
        self._rows += len(sequences)
        self._tokens += sum(len(one.ids) for one in sequences)
        now = time.monotonic()
        if now - self._told < _SECONDS_BETWEEN_LINES and self._rows < self._num_rows:
            return
        self._told, seconds = now, max(now - self._started, 1e-9)
        line = {
            "step": self._rows,
            "max_steps": self._num_rows,
            "tokens": self._tokens,
            "tokens_per_second": round(self._tokens / seconds, 1),
            "elapsed_seconds": round(seconds, 3),
        }
        for observer in self._observers:
            observer.logged(line)


def _say_start(scoring: Scoring, num_done: int) -> None:
    scored, settings = scoring.scored, scoring.settings
    name = type(transformer_of(scored.model)).__name__
    dtype = str(scored.model.dtype).removeprefix("torch.")
    log.say(f"model: {name}, {scored.num_parameters:,} parameters, {dtype} on {scored.device}")
    measured = ", ".join((*settings.metrics, *settings.harness_tasks))
    log.say(f"rows: {len(scoring.sequences):,}, {settings.batch_size} at a time; measured: {measured}")
    if not scored.sequences_apart:
        log.say("note: this model does not keep conversations of one row apart; each has a forward pass of its own")
    if num_done:
        log.say(f"going on: {num_done:,} rows are done already")


def _finish(
    scoring: Scoring, results: list[RowResult], observers: Sequence[Observer], summary: TrainingSummary, seconds: float
) -> None:
    """The results, what was seen, and last of all the record."""
    job, settings = scoring.job, scoring.settings
    refuse_no_number(results)
    harness: dict[str, Any] = {}
    if settings.harness_tasks:
        harness = run_harness(scoring.scored, settings, job.experiment.seed)
    document = evaluation_document(job, results, harness)
    write_rows(job.run_dir.evaluation_rows, results)
    write_json_atomically(job.run_dir.evaluation, document)
    _tell(document, observers, seconds)
    seen = {"tokens": document["counts"]["tokens"], "ended_at": utc_now()}
    write_summary(job, summary.model_copy(update=seen))
    record = record_success(job, summary.started_at)
    scoring.store.remove()
    for observer in observers:
        observer.finished(record)
    for complaint in job.host.notify("tunewright_run_finished", record=record):
        log.say(complaint)


def _tell(document: dict[str, Any], observers: Sequence[Observer], seconds: float) -> None:
    """The results in the log, and as the last line of the metrics."""
    metrics, counts = document["metrics"], document["counts"]
    line: dict[str, Any] = {"step": counts["rows"]}
    line |= {f"evaluation_{name}": value for name, value in metrics.items() if isinstance(value, float)}
    line |= {"evaluation_tokens": counts["tokens"], "evaluation_seconds": round(seconds, 3)}
    for observer in observers:
        observer.logged(line)
    if "exact_match" in metrics:
        log.say(f"exact match: {counts['exact_matches']:,} of {counts['rows']:,} rows, {metrics['exact_match']:.4f}")
    for task, measured in metrics.get("harness", {}).items():
        log.say(f"{task}: " + ", ".join(f"{name} {value:.4f}" for name, value in measured.items()))
