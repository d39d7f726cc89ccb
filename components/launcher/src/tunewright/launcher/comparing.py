"""Two records of what should be one and the same run: what is the same, what differs, and what need not be the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tunewright.contracts.experiment_file import parse_experiment
from tunewright.contracts.provenance import ProvenanceRecord, digest_of_losses, read_losses
from tunewright.contracts.rundir import RunDir

_SAME_FIELDS = (
    "code.commit", "code.patch_sha256", "data.digest", "data.evaluation.digest", "model.sha256", "model.revision",
    "environment.key", "environment.sha256", "environment.lock_digest", "environment.python", "hyperparameters.seed",
    "hyperparameters.model", "hyperparameters.dataset", "hyperparameters.training", "hyperparameters.evaluation",
    "metrics.steps", "metrics.first_loss", "metrics.last_loss", "metrics.evaluation",
)  # fmt: skip
"""What two runs of one record have in common, byte for byte."""

_FREE_FIELDS = (
    "hardware.machine", "hardware.cpu", "hardware.cpu_cores", "hardware.torch_threads", "hardware.gpus",
    "metrics.num_processes", "cluster.name", "cluster.resources", "plugins.launcher",
)  # fmt: skip
"""What another machine or another cluster has of its own, and may be why bytes differ."""

_WEIGHTS = ".safetensors"


@dataclass(frozen=True)
class Comparison:
    """One thing of both runs."""

    field: str
    """By its place in the record."""

    was: Any
    """In the run that is repeated."""

    now: Any
    """In the repetition."""

    must_be_same: bool = True
    """False for what may differ, and is told."""

    note: str = ""
    """In what they differ, where that can be told better than by the values."""

    @property
    def is_same(self) -> bool:
        """Whether they are equal."""
        return bool(self.was == self.now)

    @property
    def differs(self) -> bool:
        """Whether they are not, and must be."""
        return self.must_be_same and not self.is_same

    def to_document(self) -> dict[str, Any]:
        """For `--json` and `reproduction.json`."""
        own = {"field": self.field, "same": self.is_same, "must_be_same": self.must_be_same}
        return {**own, "was": self.was, "now": self.now, **({"note": self.note} if self.note else {})}


def compare_records(
    was: ProvenanceRecord, was_run: RunDir | None, now: ProvenanceRecord, now_run: RunDir
) -> tuple[Comparison, ...]:
    """Everything that both records speak of. `was_run` where the files of the first run are here too."""
    first, second = _document_of(was), _document_of(now)
    compared = [_compared(field, first, second, True) for field in _SAME_FIELDS]
    compared += _weights(was, now)
    compared += _losses(was, was_run, now_run)
    compared += [_compared(field, first, second, False) for field in _FREE_FIELDS]
    return tuple(one for one in compared if (one.was, one.now) != (None, None))


def _document_of(record: ProvenanceRecord) -> dict[str, Any]:
    """The record with its experiment as it is written now: keys that are newer than a record have their defaults."""
    document = record.to_document()
    own = {key: value for key, value in record.hyperparameters.items() if key != "digest"}
    document["hyperparameters"] = parse_experiment(own, f"the record of run `{record.run}`").to_document()
    return document


def _compared(field: str, was: Mapping[str, Any], now: Mapping[str, Any], must_be_same: bool) -> Comparison:
    one, other = _at(field, was), _at(field, now)
    note = ""
    if isinstance(one, dict) and isinstance(other, dict) and one != other:
        note = f"in {', '.join(sorted(key for key in {*one, *other} if one.get(key) != other.get(key)))}"
    return Comparison(field, one, other, must_be_same, note)


def _at(field: str, record: Mapping[str, Any]) -> Any:
    value: Any = record
    for key in field.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _weights(was: ProvenanceRecord, now: ProvenanceRecord) -> Iterator[Comparison]:
    """The weights of the model, file by file. The rest of the folder has the run's name in it."""
    old = {file.file: file.sha256 for file in was.model_files if file.file.endswith(_WEIGHTS)}
    new = {file.file: file.sha256 for file in now.model_files if file.file.endswith(_WEIGHTS)}
    for name in sorted({*old, *new}):
        yield Comparison(f"model/{name}", old.get(name), new.get(name))


def _losses(was: ProvenanceRecord, was_run: RunDir | None, now_run: RunDir) -> Iterator[Comparison]:
    """The loss of every logged step: by their digests, and where both files are here by the first that differs."""
    new, recorded = read_losses(now_run.metrics), was.metrics.get("losses_sha256")
    old = read_losses(was_run.metrics) if was_run is not None else {}
    if recorded is None and old:  # a record of before there were digests of losses
        recorded = digest_of_losses(old)
    if recorded is None and not new:
        return
    now = digest_of_losses(new) if new else None
    note = _first_difference(old, new) if old and now != recorded else ""
    yield Comparison("metrics.losses_sha256", recorded, now, must_be_same=recorded is not None, note=note)


def _first_difference(old: Mapping[int, float], new: Mapping[int, float]) -> str:
    steps = [step for step in sorted({*old, *new}) if old.get(step) != new.get(step)]
    if not steps:
        return ""
    first = steps[0]
    words = f"from step {first} on: {old.get(first)} was, {new.get(first)} is" if len(steps) > 1 else ""
    return words or f"at step {first}: {old.get(first)} was, {new.get(first)} is"


def reasons(compared: tuple[Comparison, ...], now: ProvenanceRecord) -> list[str]:
    """What may be why weights or losses differ: what is not the same of the machine, and what never is promised."""
    if not any(one.differs for one in compared):
        return []
    other = [f"another {one.field}: {one.was} was, {one.now} is" for one in compared
             if not one.must_be_same and not one.is_same and not one.field.startswith("plugins")]  # fmt: skip
    return [*other, *map(str, now.randomness.get("determinism", {}).get("not_deterministic", ()))]
