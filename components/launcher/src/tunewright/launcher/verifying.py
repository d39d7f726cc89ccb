"""The reproducibility checklist of a run: each item found, missing or different, with what it is. Changes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from tunewright.contracts.checkpoints import CHECKPOINT_FILE, verify_checkpoint
from tunewright.contracts.datasets import verify_cache
from tunewright.contracts.errors import NotFound, TunewrightError
from tunewright.contracts.files import sha256_of_file, sha256_of_tree
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.provenance import ProvenanceRecord, digest_of_losses, read_losses
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.spec import digest_of
from tunewright.contracts.status import JobState
from tunewright.launcher.clusters import open_cluster
from tunewright.launcher.resolve import cluster_options
from tunewright.launcher.run_store import read_job, read_json, read_plan

_OWN_MARK = "digest"
"""What `resolved.json` has beside the experiment."""


class Finding(StrEnum):
    """What became of an item."""

    FOUND = "found"
    MISSING = "missing"
    """The record, or what it names, should be there and is not."""
    DIFFERS = "differs"
    NOT_HERE = "not here"
    """It cannot be looked at from here, and need not be: a dataset that was cleaned up, a cluster that is away."""


@dataclass(frozen=True)
class Item:
    """One line of the checklist."""

    field: str
    """What it is, by its place in the record, or the file in the run."""

    finding: Finding
    value: str = ""
    """What it is, shortened for people."""

    why: str = ""
    """Of what is missing or differs: in what."""

    def to_document(self) -> dict[str, str]:
        """For `--json`."""
        return {"field": self.field, "finding": self.finding.value, "value": self.value, "why": self.why}


def check_run(record: ProvenanceRecord, run: RunDir | None, host: PluginHost) -> tuple[Item, ...]:
    """Every item of the checklist. Without `run`, a record that was copied from elsewhere, no file is looked at."""
    items = [*_record_items(record)]
    if run is not None:
        items += [*_file_items(record, run), *_plan_items(run, host)]
    items += [_cache_item("data", record.data), _environment_file(record)]
    if "evaluation" in record.data:
        items.append(_cache_item("data.evaluation", record.data["evaluation"]))
    return tuple(items)


def _record_items(record: ProvenanceRecord) -> Iterator[Item]:
    """What the record itself says, line by line."""
    yield from _code_items(record.code)
    yield from _data_items("data", record.data)
    if "evaluation" in record.data:
        yield from _data_items("data.evaluation", record.data["evaluation"])
    yield _model_item(record.model)
    yield from _environment_items(record.environment)
    yield from _told("randomness", record.randomness, ("seeds", "determinism"))
    yield _hyperparameters_item(record.hyperparameters)
    yield _item("hardware", record.hardware, ", ".join(f"{key} {one}" for key, one in record.hardware.items() if one))
    yield from _told("plugins", record.plugins, ("launcher", "trainer"))
    yield from _told("cluster", record.cluster, ("name", "native_id"))
    yield from _metrics_items(record)
    yield Item("outcome", Finding.FOUND, f"{record.outcome.state.value} {record.outcome.message}".strip())


def _item(field: str, value: Any, text: str | None = None) -> Item:
    """Found where there is anything."""
    if value in (None, "", {}, [], ()):
        return Item(field, Finding.MISSING, why="the record does not say it")
    return Item(field, Finding.FOUND, _short(value) if text is None else text)


def _told(table: str, values: Mapping[str, Any], keys: Iterable[str]) -> Iterator[Item]:
    for key in keys:
        yield _item(f"{table}.{key}", values.get(key))


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(one)}" for key, one in value.items())
    if isinstance(value, list):
        return f"{len(value)} in words" if value and isinstance(value[0], str) else str(len(value))
    return str(value)


def _code_items(code: Mapping[str, Any]) -> Iterator[Item]:
    yield _item("code.commit", code.get("commit"))
    yield Item("code.branch", Finding.FOUND, code.get("branch") or "none was checked out")
    if code.get("dirty"):
        yield _item("code.patch_sha256", code.get("patch_sha256"))
    else:
        yield Item("code.patch_sha256", Finding.FOUND, "the tree was as committed")


def _data_items(table: str, data: Mapping[str, Any]) -> Iterator[Item]:
    yield _item(f"{table}.digest", data.get("digest"))
    sources = data.get("sources") or ()
    if not sources:
        yield _item(f"{table}.sources", None)
    for number, source in enumerate(sources):
        digests = [file["sha256"] for file in source.get("files", ()) if "sha256" in file]
        hub = source.get("hub") or {}
        text = hub.get("revision") or (digests[0] if len(digests) == 1 else f"{len(digests)} files")
        name = f"{table}.sources[{number}]"
        yield _item(name, digests or hub, f"{source.get('source', '')} {text}".strip())


def _model_item(model: Mapping[str, Any]) -> Item:
    digest = model.get("sha256") or model.get("revision")
    return _item("model", digest, f"{model.get('name_or_path')} {digest}")


def _environment_items(environment: Mapping[str, Any]) -> Iterator[Item]:
    yield from _told("environment", environment, ("key", "sha256"))
    is_foreign_image = environment.get("kind") == "image" and not environment.get("lock_digest")
    if is_foreign_image:  # one that was not built here is told by its digest
        yield Item("environment.lock_digest", Finding.FOUND, "none: the image is known by its digest")
    else:
        yield _item("environment.lock_digest", environment.get("lock_digest"))
    yield _item("environment.python", environment.get("python"))
    packages = environment.get("packages") or {}
    yield _item("environment.packages", packages, f"{len(packages)} packages")


def _hyperparameters_item(experiment: Mapping[str, Any]) -> Item:
    digest, own = experiment.get(_OWN_MARK), {key: one for key, one in experiment.items() if key != _OWN_MARK}
    if not own or not digest:
        return _item("hyperparameters", None)
    actual = digest_of(own)
    if actual != digest:
        return Item("hyperparameters", Finding.DIFFERS, str(digest), f"they give the digest {actual}, must be {digest}")
    return Item("hyperparameters", Finding.FOUND, str(digest))


def _metrics_items(record: ProvenanceRecord) -> Iterator[Item]:
    job = record.hyperparameters.get("job", "train")
    if job == "evaluate":
        yield _item("metrics.evaluation", record.metrics.get("evaluation"))
    elif job == "train":
        yield from _told("metrics", record.metrics, ("steps", "first_loss", "last_loss"))


def _file_items(record: ProvenanceRecord, run: RunDir) -> Iterator[Item]:
    """What lies in the run's directory, against the record."""
    if record.code.get("dirty"):
        yield _digest_item(run.patch.name, run.patch, record.code.get("patch_sha256"))
    yield from _agreeing_items(record, run)
    yield from _model_file_items(record, run)
    for checkpoint in record.checkpoints:
        yield _checkpoint_item(run, checkpoint)
    recorded = record.metrics.get("losses_sha256")
    if recorded is not None:
        losses = read_losses(run.metrics)
        yield _compared(run.metrics.name, digest_of_losses(losses) if losses else None, recorded, "its losses' digest")
    if not record.model_files and record.outcome.state is JobState.SUCCEEDED:
        is_measured = record.hyperparameters.get("job") == "evaluate"
        yield Item(
            "model/", Finding.FOUND if is_measured else Finding.MISSING, "none: it measures" if is_measured else ""
        )


def _digest_item(field: str, path: Path, wanted: str | None) -> Item:
    return _compared(field, sha256_of_file(path) if path.is_file() else None, wanted, "sha256")


def _compared(field: str, actual: str | None, wanted: str | None, what: str) -> Item:
    if actual is None:
        return Item(field, Finding.MISSING, why="is not there")
    if actual != wanted:
        return Item(field, Finding.DIFFERS, actual, f"{what} is {actual}, must be {wanted}")
    return Item(field, Finding.FOUND, actual)


def _agreeing_items(record: ProvenanceRecord, run: RunDir) -> Iterator[Item]:
    """The run's other files, which the record was made of: they must still say the same."""
    job = read_json(run.job)
    dataset, environment = job.get("dataset") or {}, job.get("environment") or {}
    experiment = job.get("experiment")
    own = {key: one for key, one in record.hyperparameters.items() if key != _OWN_MARK}
    said = (
        ("resolved.json", read_json(run.resolved), record.hyperparameters, "the experiment"),
        ("job.json: experiment", experiment, own, "the experiment"),
        ("job.json: dataset", dataset.get("digest"), record.data.get("digest"), "the digest"),
        ("job.json: environment", environment.get("key"), record.environment.get("key"), "the key"),
        ("handle.json", read_json(run.handle).get("native_id"), record.cluster.get("native_id"), "the native id"),
    )
    for field, here, recorded, what in said:
        if here in (None, {}) and recorded not in (None, {}):
            yield Item(field, Finding.MISSING, why="is not there")
        elif here != recorded:
            yield Item(field, Finding.DIFFERS, why=f"{what} is not the one that is recorded")
        else:
            yield Item(field, Finding.FOUND)


def _model_file_items(record: ProvenanceRecord, run: RunDir) -> Iterator[Item]:
    for file in record.model_files:
        field, problem = f"model/{file.file}", file.problem(run.model)
        if problem is None:
            yield Item(field, Finding.FOUND, file.sha256)
        elif not (run.model / file.file).is_file():
            yield Item(field, Finding.MISSING, why="is not there")
        else:
            yield Item(field, Finding.DIFFERS, file.sha256, problem)
    known = {file.file for file in record.model_files}
    paths = (path for path in sorted(run.model.rglob("*")) if path.is_file() and not path.name.startswith("."))
    for path in paths:
        name = path.relative_to(run.model).as_posix()
        if name not in known:
            yield Item(f"model/{name}", Finding.DIFFERS, why="is not in the record")


def _checkpoint_item(run: RunDir, recorded: Mapping[str, Any]) -> Item:
    """Its own record against the run's, and every file of it against its own."""
    field = str(recorded.get("path"))
    item = _digest_item(field, run.path / field / CHECKPOINT_FILE, recorded.get("sha256"))
    if item.finding is not Finding.FOUND:
        return item
    try:
        verify_checkpoint(run.path / field)
    except TunewrightError as error:
        return Item(field, Finding.DIFFERS, item.value, error.message.replace("\n", "; "))
    return item


def _cache_item(table: str, data: Mapping[str, Any]) -> Item:
    """The prepared dataset, read whole where it is a directory here."""
    field, place = f"{table}.path", str(data.get("path", ""))
    if "://" in place:
        return Item(field, Finding.NOT_HERE, place, f"`dataset-cacher verify {data.get('digest')}` reads it")
    if not place or not Path(place).is_dir():
        return Item(field, Finding.NOT_HERE, place, "it can be prepared again from its sources")
    try:
        manifest = verify_cache(Path(place))
    except NotFound:  # half of one
        return Item(field, Finding.NOT_HERE, place, "it can be prepared again from its sources")
    except TunewrightError as error:
        return Item(field, Finding.DIFFERS, place, error.message.replace("\n", "; "))
    if manifest.digest != data.get("digest"):
        return Item(field, Finding.DIFFERS, place, f"digest is {manifest.digest}, must be {data.get('digest')}")
    return Item(field, Finding.FOUND, place)


def _environment_file(record: ProvenanceRecord) -> Item:
    """What it ran in, where that is a file or a directory here."""
    field, place = "environment.reference", str(record.environment.get("reference", ""))
    if record.environment.get("kind") == "image":
        return Item(field, Finding.NOT_HERE, place, f"`env-builder verify {place}` asks where images are")
    if not place or not Path(place).exists():
        return Item(field, Finding.NOT_HERE, place, "it can be built again from its commit")
    item = _compared(field, sha256_of_tree(Path(place)), record.environment.get("sha256"), "sha256")
    return Item(field, item.finding, place, item.why)


def _plan_items(run: RunDir, host: PluginHost) -> Iterator[Item]:
    """What the cluster got against what it would get for `job.json`."""
    try:
        job, sent = read_job(run), read_plan(run)
    except (TunewrightError, OSError) as error:
        yield Item("plan/", Finding.MISSING, why=str(error).replace("\n", "; "))
        return
    if job.experiment is None:
        return
    try:
        planner = open_cluster(sent.cluster, host)
        planned = planner.plan(job, cluster_options(job.experiment, host.clusters.get(sent.cluster)))
    except TunewrightError as error:
        yield Item("plan/", Finding.NOT_HERE, why=f"cannot be planned here: {error.message}".replace("\n", "; "))
        return
    of_job = {file.name: file.text for file in planned.files}
    versions = job.origin.plugins if job.origin else {}
    changed = ", ".join(sorted(name for name, one in host.versions.items() if versions.get(name, one) != one))
    for file in sent.files:
        digest = hashlib.sha256(file.text.encode()).hexdigest()
        if file.text == of_job.get(file.name):
            yield Item(f"plan/{file.name}", Finding.FOUND, digest)
        elif changed:
            yield Item(f"plan/{file.name}", Finding.NOT_HERE, digest, f"other versions are installed now: {changed}")
        else:
            yield Item(f"plan/{file.name}", Finding.DIFFERS, digest, "is not what job.json gives")
