"""`dataset-cacher explain`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from tunewright.contracts.dataset_copies import is_url, read_remote_manifest
from tunewright.contracts.datasets import MANIFEST_FILE, DatasetManifest, parse_manifest, read_manifest
from tunewright.contracts.errors import NotFound, UsageError
from tunewright.contracts.experiment_file import find_home, find_project_root
from tunewright.contracts.files import json_text
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.spec import digest_of
from tunewright.dataset_cacher.commands.options import as_json, cache_root, load, open_store, stage_option
from tunewright.dataset_cacher.explaining import explain_keys


@dataclass(frozen=True)
class _Side:
    digest: str
    key: dict[str, Any]


@click.command()
@click.argument("first", metavar="DIGEST-OR-EXPERIMENT")
@click.argument("other")
@click.option(
    "--set", "assignments", multiple=True, metavar="A.B=VALUE",
    help="Set one value of the experiment, of OTHER where both are experiments; repeatable.",
)  # fmt: skip
@stage_option
@cache_root
@as_json
def explain(
    first: str, other: str, assignments: tuple[str, ...], stage: str | None, cache_root: str | None, as_json: bool
) -> None:
    """Say what makes the digests of two datasets differ.

    Each is a digest (six of its digits are enough), an experiment file, a run, or the path of a run's `dataset.json`,
    of a `manifest.json` or of what `key --json` wrote. Prepares nothing.
    """
    if assignments and not (_is_experiment(first) or _is_experiment(other)):
        raise UsageError("--set: neither of the two is an experiment file")
    mine = _read_side(first, () if _is_experiment(other) else assignments, stage, cache_root)
    theirs = _read_side(other, assignments, stage, cache_root)
    differences = explain_keys(mine.key, theirs.key)
    if as_json:
        document = {
            "first": mine.digest,
            "other": theirs.digest,
            "same": mine.digest == theirs.digest,
            "differences": [asdict(one) for one in differences],
        }
        click.echo(json_text(document), nl=False)
    elif differences:
        click.echo(f"{mine.digest[:12]} / {theirs.digest[:12]}")
        click.echo("\n".join(f"  {one}" for one in differences))
    else:
        click.echo(f"the same digest: {mine.digest}")
        click.echo("nothing that decides the tokens differs; where files lie, when and who prepares do not count")


def _is_experiment(side: str) -> bool:
    return side.endswith(".toml")


def _read_side(side: str, assignments: tuple[str, ...], stage: str | None, cache_root: str | None) -> _Side:
    path = Path(side)
    if _is_experiment(side):
        from tunewright.dataset_cacher.commands.prepare import provide_experiment

        provided = provide_experiment(load(path, assignments, stage), cache_root, plan_only=True)
        return _Side(provided.dataset.digest, provided.key)
    if path.is_dir():
        path = next((one for one in (path / MANIFEST_FILE, RunDir(path).dataset) if one.is_file()), path)
    if path.is_file():
        return _read_document(path)
    if all(letter in "0123456789abcdef" for letter in side):
        store = open_store(cache_root)
        return _of(store.read_manifest(store.resolve(side)))
    run = RunDir.of(find_home(find_project_root(Path.cwd() / ".")), side)
    if run.dataset.is_file():
        return _read_document(run.dataset)
    raise NotFound(f"`{side}`: is no digest, no experiment file (.toml), no run, and no file of a run or a cache")


def _read_document(path: Path) -> _Side:
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise UsageError(f"{path}: is not JSON: {error}") from None
    if not isinstance(document, dict):
        document = {}
    if isinstance(document.get("key"), dict):
        return _Side(digest_of(document["key"]), document["key"])
    dataset = document.get("dataset") if "dataset" in document else document
    if isinstance(dataset, dict) and isinstance(dataset.get("path"), str):
        return _of(_manifest_at(dataset["path"]))
    raise UsageError(f"{path}: names no dataset", "give a manifest.json, a run's dataset.json, or a digest")


def _manifest_at(place: str) -> DatasetManifest:
    if is_url(place):
        return parse_manifest(read_remote_manifest(place), place)
    return read_manifest(Path(place))


def _of(manifest: DatasetManifest) -> _Side:
    return _Side(manifest.digest, manifest.key)
