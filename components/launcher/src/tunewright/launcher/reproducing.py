"""A run again from its record alone: what must be the same before anything is built, and the job that comes of it."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunewright.contracts.errors import IntegrityError, RecordMismatch
from tunewright.contracts.experiment import DatasetSource, ExperimentSpec, ModelSpec, TrackingSpec
from tunewright.contracts.experiment_file import LoadedExperiment, parse_experiment, parse_spec, resolve_model
from tunewright.contracts.files import sha256_of_file
from tunewright.contracts.jobs import ModelReference
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.provenance import ProvenanceRecord
from tunewright.contracts.spec import digest_of
from tunewright.contracts.stages import merge_table
from tunewright.launcher.clusters import open_cluster
from tunewright.launcher.code_origin import Checkout
from tunewright.launcher.preflight import refuse_errors, run_preflight
from tunewright.launcher.prepare import CheckedExperiment, questions_of
from tunewright.launcher.recorded_code import Place
from tunewright.launcher.records import FoundRecord
from tunewright.launcher.resolve import resolve_stages
from tunewright.launcher.user_config import UserConfig


def recorded_experiment(record: ProvenanceRecord) -> ExperimentSpec:
    """The resolved experiment of the record. Raises RecordMismatch where it is not there, or not what it was."""
    document = {key: value for key, value in record.hyperparameters.items() if key != "digest"}
    needed = {
        "hyperparameters": document,
        "code.commit": record.code.get("commit"),
        "data.digest": record.data.get("digest"),
        "environment.key": record.environment.get("key"),
    }
    missing = [field for field, value in needed.items() if not value]
    if missing:
        told = f"it has no {' and no '.join(missing)}"
        raise RecordMismatch(f"the record of run `{record.run}` is not enough to run it again: {told}")
    if digest_of(document) != record.hyperparameters.get("digest"):
        told = f"they give {digest_of(document)}, must give {record.hyperparameters.get('digest')}"
        raise RecordMismatch(f"the record of run `{record.run}`: hyperparameters: changed since: {told}")
    return parse_experiment(document, f"the record of run `{record.run}`")


def repeated_experiment(
    spec: ExperimentSpec, cluster: str | None, config: UserConfig
) -> tuple[ExperimentSpec, list[str]]:
    """What is run: the recorded experiment, on `cluster` where told, and nothing that leaves this place.

    Gives also, in words, what is not as it was.
    """
    notes = []
    quiet: dict[str, Any] = {}
    if spec.publish is not None or spec.tracking.to or spec.tracking.registered_model:
        quiet |= {"publish": None, "tracking": TrackingSpec(project=spec.tracking.project)}
        notes.append("nothing is published or sent to a tracker")
    if spec.checkpoint.copy_to is not None:
        quiet["checkpoint"] = spec.checkpoint.model_copy(update={"copy_to": None})
        notes.append("checkpoints are not copied")
    if spec.notifications is not None:
        quiet["notifications"] = None
        notes.append("nobody is notified")
    document = spec.model_copy(update=quiet).to_document()
    if cluster is not None:
        profile = config.profiles.get(cluster)
        above = profile.model_dump(mode="json", exclude_unset=True) if profile else {"name": cluster}
        document["cluster"] = merge_table("cluster", document["cluster"], above)
        notes.append(f"it runs on `{cluster}`, and ran on `{spec.cluster.name}`")
    return parse_experiment(document, "the recorded experiment"), notes


def refuse_other_data(record: ProvenanceRecord, spec: ExperimentSpec, place: Place) -> None:
    """Compare every source that is here with the record. Raises IntegrityError naming each that is not the same."""
    problems = [*_source_problems("dataset", spec.dataset.mix, record.data, place)]
    if spec.evaluation is not None:
        problems += _source_problems("evaluation", spec.evaluation.mix, record.data.get("evaluation") or {}, place)
    if problems:
        told = "".join(f"\n  {problem}" for problem in problems)
        hint = f"bring the data back to what it was; as committed it is in {record.code['commit'][:12]}"
        raise IntegrityError(f"the data is not what run `{record.run}` had{told}", hint)


def _source_problems(
    table: str, mix: tuple[DatasetSource, ...], recorded: Mapping[str, Any], place: Place
) -> Iterator[str]:
    sources = recorded.get("sources") or ()
    for number, (source, known) in enumerate(zip(mix, sources, strict=False)):
        wanted = [file["sha256"] for file in known.get("files", ()) if "sha256" in file]
        field = f"{table}.mix[{number}].source"
        if wanted and "://" not in source.source:  # those far away are compared with the whole dataset's digest
            yield from _file_problems(field, source.source, wanted, place)


def _file_problems(field: str, text: str, wanted: list[str], place: Place) -> Iterator[str]:
    paths = _files_of(place.project_root / Path(text).expanduser())
    if not paths:
        yield f"{field}: `{text}`: no such file here"
    actual = {path: sha256_of_file(path) for path in paths}
    missing = Counter(wanted) - Counter(actual.values())
    if not missing or not paths:
        return
    others = [path for path in paths if actual[path] not in wanted]
    if not others or len(others) > len(missing):  # of a directory not every file is a source
        yield f"{field}: `{text}`: {sum(missing.values())} of its {len(wanted)} files are gone or changed"
        return
    for path, digest in zip(others, missing.elements(), strict=False):
        name = path.relative_to(place.project_root) if path.is_relative_to(place.project_root) else path
        must = f"must be {digest}" if len(missing) == 1 else "is none of those recorded"
        yield f"{field}: {name}: sha256 is {actual[path]}, {must}"


def _files_of(path: Path) -> list[Path]:
    """The files that a source may mean, by name."""
    if path.is_file():
        return [path]
    found = path.rglob("*") if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))
    return sorted(one for one in found if one.is_file())


def find_recorded_model(record: ProvenanceRecord, spec: ExperimentSpec, place: Place) -> ModelReference:
    """The model it starts from. Raises IntegrityError where it is not the recorded one, else as `resolve_model`."""
    model = resolve_model(spec.model, place.project_root, place.home, allow_adapters=spec.job != "train")
    for key in ("sha256", "revision"):
        wanted, actual = record.model.get(key), getattr(model, key)
        if wanted is not None and wanted != actual:
            raise IntegrityError(
                f"model.name_or_path: `{spec.model.name_or_path}`: {key} is {actual}, must be {wanted}",
                f"run `{record.run}` started from another model",
            )
    return model


def check_recorded(
    found: FoundRecord, spec: ExperimentSpec, place: Place, code: tuple[Path, Checkout], host: PluginHost
) -> CheckedExperiment:
    """The recorded experiment, checked as `launch` checks one: its code from `code`, its data from the clone.

    Raises IntegrityError where the dataset that would be prepared is not the recorded one.
    """
    record, (root, checkout) = found.record, code
    first = record.data.get("prepared_with")
    loaded = LoadedExperiment(
        spec=spec,
        source=_source_text(found),
        path=found.path,
        project_root=place.project_root,
        home=place.home,
        first_model=parse_spec(ModelSpec, first, str(found.path), "data.prepared_with") if first else None,
    )
    (experiment,) = resolve_stages((loaded,), host)
    cluster = open_cluster(experiment.spec.cluster.name, host)
    model = find_recorded_model(record, spec, place)
    of_code = experiment.model_copy(update={"project_root": str(root)})
    report = run_preflight(of_code, host, cluster, checkout.findings)
    refuse_errors(report)
    questions = replace(questions_of(loaded, experiment, checkout, model, host), code_root=str(root))
    planned = questions.plan()
    _refuse_other_dataset(record, planned.dataset.digest, "data")
    if planned.evaluation_dataset is not None:
        _refuse_other_dataset(record, planned.evaluation_dataset.digest, "data.evaluation")
    return CheckedExperiment(loaded, experiment, checkout, report, model, questions, planned, host, cluster)


def _refuse_other_dataset(record: ProvenanceRecord, digest: str, table: str) -> None:
    recorded = (record.data if table == "data" else record.data.get("evaluation") or {}).get("digest")
    if digest != recorded:
        raise IntegrityError(
            f"{table}.digest: would be {digest}, must be {recorded}: its sources, their format, the tokenizer, the "
            "chat template, or a version of what decides tokens is not the same here",
            f"where both are prepared, `dataset-cacher explain {recorded} {digest}` tells which",
        )


def _source_text(found: FoundRecord) -> str:
    """What `experiment.toml` of the new run holds: the recorded run's own file, where it lies beside the record."""
    own = found.run.experiment if found.run is not None else None
    if own is not None and own.is_file():
        return own.read_text()
    return f"# Made again from the record of run {found.record.run}: resolved.json has the whole experiment.\n"
