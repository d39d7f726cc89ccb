"""The record of a run: every line of the reproducibility checklist, put together from the files of the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from tunewright.contracts.checkpoints import CHECKPOINT_FILE
from tunewright.contracts.costs import actual_cost
from tunewright.contracts.datasets import FileRecord
from tunewright.contracts.files import sha256_of_file, write_json_atomically
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.spec import Spec
from tunewright.contracts.status import JobStatus

JsonObject = dict[str, Any]


class TrainingSummary(Spec):
    """`training.json`: what the trainer itself saw. Written at the start and at the end of each attempt."""

    started_at: str
    """When this attempt started, ISO 8601 in UTC."""

    ended_at: str | None = None
    """When it ended. None while it runs, and where it was killed."""

    model_sha256: str | None = None
    """Of the model's directory, where the job could not say: an earlier stage had yet to leave it when it was sent."""

    steps: int = 0
    """Optimizer steps done."""

    tokens: int = 0
    """Tokens seen."""

    first_loss: float | None = None
    """Loss of the first logged step of the run."""

    last_loss: float | None = None
    """Loss of the last logged step."""

    best_evaluation_loss: float | None = None
    """The lowest loss on the rows that are not trained on. None without `[evaluation]`."""

    best_evaluation_step: int | None = None
    """The step it was seen after. With `evaluation.keep_best` this is the model that was written."""

    ended_early: str | None = None
    """Why it ended well before its last step, in one sentence: its evaluations got no better. None: it did not."""

    resumed_from_step: int | None = None
    """The checkpoint's step this attempt went on from, None where it started anew."""

    resumed_from: JsonObject | None = None
    """That checkpoint: its name, step, and processes and strategy `before` and `now`; `note` where these differ."""

    damaged_checkpoints: tuple[JsonObject, ...] = ()
    """Checkpoints that did not match their digests: what each was renamed to, and what differed."""

    checkpoint_copies: JsonObject = {}
    """With `checkpoint.copy_to`: the URL, the newest checkpoint there, and what could not be copied, and why."""

    error: str | None = None
    """Why it ended early, in one sentence."""

    seeds: JsonObject = {}
    """Every seed that was set, by what it decides."""

    determinism: JsonObject = {}
    """The flags that were set, and under `not_deterministic` a list of what was not, in words."""

    hardware: JsonObject = {}
    """CPU, memory, GPU models, driver, CUDA."""

    packages: dict[str, str] = {}
    """Every installed distribution and its version."""

    python: str = ""
    """Version of the job's interpreter."""

    num_processes: int = 1
    """Training processes over all nodes."""

    engine: JsonObject = {}
    """The strategy that really ran, as the wrapped model says it."""

    published: JsonObject = {}
    """Where the model went: `hub_repository` and `hub_commit`, `mlflow_run_id`, `registered_model` and its version."""

    plugins: dict[str, str] = {}
    """Each plugin's distribution and version, as the job saw them."""


class ProvenanceRecord(Spec):
    """`provenance.json`: enough to repeat the run and to tell whether the repetition is the same."""

    schema_version: int = Field(default=1, alias="schema")
    """The version of this format."""

    run: str
    """The run's name."""

    written_at: str
    """When this record was written, ISO 8601 in UTC."""

    code: JsonObject
    """Commit, branch, dirty patch and its digest."""

    data: JsonObject
    """Each source's revision or SHA-256, the cache's digest, rows, tokens, drops; `evaluation`: the same of that.

    `prepared_with`: of a later stage, the model whose tokenizer and template it was prepared with.
    """

    model: JsonObject
    """What it started from: path or id, revision, digest."""

    environment: JsonObject
    """Image digest or PEX SHA-256, lock digest, Python, packages."""

    randomness: JsonObject
    """Seeds and determinism flags, and what was not deterministic."""

    hyperparameters: JsonObject
    """The resolved experiment and its digest."""

    hardware: JsonObject
    """CPU, memory, GPU models, driver, CUDA."""

    plugins: JsonObject
    """Each plugin's distribution and version, as the launcher and as the trainer saw them."""

    cluster: JsonObject
    """Name, native job id, attempts."""

    checkpoints: tuple[JsonObject, ...]
    """Those that are still there, each with the SHA-256 of its record."""

    model_files: tuple[FileRecord, ...]
    """Every file of `model/`, with its digest."""

    metrics: JsonObject
    """The summary: steps, tokens, first and last loss, times; of an `evaluate` job, `evaluation`: what it measured.

    `losses_sha256`: over the loss of every logged step (`digest_of_losses`).
    """

    published: JsonObject = {}
    """Where the model went besides the run: a repository on the hub, a version in a registry."""

    cost: JsonObject = {}
    """Where a price was known: hours from start to end, the price of an hour, and what that makes."""

    outcome: JobStatus
    """How the run ended, with its cause."""


def _read(path: Path) -> JsonObject:
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def compose_record(run_dir: RunDir, outcome: JobStatus, written_at: str) -> ProvenanceRecord:
    """The record of the run at `run_dir`, from the files that are there. What a killed run did not write is empty."""
    job, training, handle = _read(run_dir.job), _read(run_dir.training), _read(run_dir.handle)
    environment, dataset, origin = _read(run_dir.environment), _read(run_dir.dataset), job.get("origin") or {}
    return ProvenanceRecord(
        run=run_dir.name,
        written_at=written_at,
        code=origin.get("code", {}),
        data={
            **_with_evaluation(dataset, _read(run_dir.evaluation_dataset)),
            **({"prepared_with": first} if (first := origin.get("first_model")) else {}),
        },
        model=_with_digest(job.get("model") or {}, training.get("model_sha256")),
        environment={**environment, "python": training.get("python"), "packages": training.get("packages", {})},
        randomness={"seeds": training.get("seeds", {}), "determinism": training.get("determinism", {})},
        hyperparameters=_read(run_dir.resolved),
        hardware=training.get("hardware", {}),
        plugins={"launcher": origin.get("plugins", {}), "trainer": training.get("plugins", {})},
        cluster={
            "name": handle.get("cluster"),
            "native_id": handle.get("native_id"),
            "resources": job.get("resources", {}),
            "launched_by": {key: origin.get(key) for key in ("user", "host")},
        },
        checkpoints=tuple(_checkpoint_lines(run_dir)),
        model_files=tuple(_model_files(run_dir)),
        metrics={
            **_metrics(training, _read(run_dir.evaluation)),
            **({"losses_sha256": digest_of_losses(losses)} if (losses := read_losses(run_dir.metrics)) else {}),
        },
        published=training.get("published", {}),
        cost=actual_cost(
            run_dir.estimate,
            outcome.started_at or training.get("started_at"),
            outcome.ended_at or training.get("ended_at"),
        ),
        outcome=outcome,
    )


def read_losses(metrics: Path) -> dict[int, float]:
    """The loss of each logged step, by `metrics.jsonl`. Of a step that a resumed run repeated, the last one."""
    losses: dict[int, float] = {}
    try:
        lines = metrics.read_bytes().splitlines()
    except FileNotFoundError:
        return losses
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:  # half-written
            continue
        step, loss = (value.get("step"), value.get("loss")) if isinstance(value, dict) else (None, None)
        if isinstance(step, int) and isinstance(loss, int | float):
            losses[step] = float(loss)
    return losses


def digest_of_losses(losses: Mapping[int, float]) -> str:
    """SHA-256 over the losses step by step, to the last bit: equal runs give equal digests, whatever time they took."""
    text = "".join(f"{step} {losses[step]!r}\n" for step in sorted(losses))
    return hashlib.sha256(text.encode()).hexdigest()


def _metrics(training: JsonObject, evaluation: JsonObject) -> JsonObject:
    summary = {key: training.get(key) for key in _SUMMARY_KEYS}
    return {**summary, "evaluation": evaluation["metrics"]} if "metrics" in evaluation else summary


def _with_digest(model: JsonObject, sha256: str | None) -> JsonObject:
    return {**model, "sha256": sha256} if sha256 is not None and model.get("sha256") is None else model


def _with_evaluation(dataset: JsonObject, evaluation: JsonObject) -> JsonObject:
    return {**dataset, "evaluation": evaluation} if evaluation else dataset


_SUMMARY_KEYS = (
    "started_at", "ended_at", "steps", "tokens", "first_loss", "last_loss", "resumed_from_step", "num_processes",
    "error", "best_evaluation_loss", "best_evaluation_step", "ended_early", "resumed_from", "damaged_checkpoints",
    "checkpoint_copies",
)  # fmt: skip


def _checkpoint_lines(run_dir: RunDir) -> list[JsonObject]:
    paths = sorted(run_dir.checkpoints.glob(f"step-*/{CHECKPOINT_FILE}"))
    return [
        {
            "path": path.parent.relative_to(run_dir.path).as_posix(),
            "step": _read(path).get("step"),
            "sha256": sha256_of_file(path),
        }
        for path in paths
    ]


def _model_files(run_dir: RunDir) -> list[FileRecord]:
    files = sorted(path for path in run_dir.model.rglob("*") if path.is_file() and not path.name.startswith("."))
    return [FileRecord.of(run_dir.model, path.relative_to(run_dir.model).as_posix()) for path in files]


def write_record(run_dir: RunDir, record: ProvenanceRecord) -> None:
    """Write `provenance.json`, last of all."""
    write_json_atomically(run_dir.provenance, record.to_document())
