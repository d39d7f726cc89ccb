"""Models laid out for an image: a directory that is its `/models/hub`, the same bytes and times on every machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunewright.contracts.errors import NotFound, UsageError
from tunewright.contracts.files import sha256_of_file
from tunewright.contracts.spec import Spec, digest_of
from tunewright.env_builder.models.disk import full_disk_in_words
from tunewright.env_builder.models.layout import ModelPlace, hub_of, set_mode_and_time
from tunewright.env_builder.models.manifest import (
    ModelFile,
    ModelManifest,
    digest_of_files,
    read_manifest,
    verify_model,
    write_manifest,
)
from tunewright.env_builder.models.pins import LocalModel, ModelPin
from tunewright.env_builder.models.selection import (
    INDEX_SUFFIX,
    SAFETENSORS_SUFFIX,
    Permissions,
    refuse_without_weights,
    select_files,
)
from tunewright.env_builder.models.weights import check_index_files, check_index_tensors, read_index, read_tensor_names

_COMMIT_DIGITS = 40


class StagedModel(Spec):
    """One model of an image."""

    model_id: str
    """What `from_pretrained` calls it."""

    commit: str
    """Its `revision`."""

    digest: str
    """Over name, size and SHA-256 of its files."""

    bytes: int
    """Of all its files."""

    num_files: int


class StagedModels(Spec):
    """What was laid out. Equal models give an equal digest and equal bytes."""

    directory: str
    """Where: copied into an image, it is what `HF_HUB_CACHE` names."""

    models: tuple[StagedModel, ...]
    """By id and commit."""

    digest: str
    """Over all models: part of what decides the image."""


@dataclass(frozen=True)
class _Source:
    """A model and where the bytes of its files are."""

    manifest: ModelManifest
    paths: tuple[Path, ...]
    """As `manifest.files`."""


def models_digest(home: Path, wanted: Sequence[ModelPin | LocalModel]) -> str:
    """The digest that `stage_models` will give, before anything is laid out.

    Reads manifests, and the whole of each local model. Raises NotFound as `stage_models`.
    """
    return _digest([_manifest_of(home, one) for one in wanted])


def stage_models(home: Path, wanted: Sequence[ModelPin | LocalModel], destination: Path) -> StagedModels:
    """Lay out the models `wanted` in the new directory `destination`, every byte verified.

    Files are hard links into the store where the disk allows it, so they cost no space: read them, change nothing. A
    model of which one commit is wanted is also what its id means without a revision.

    Raises NotFound for a model that was not fetched and for a directory that is not there, IntegrityError for one that
    does not match its manifest, UsageError where `destination` holds something, PreflightFailed for a local model that
    has weights only in pickles.
    """
    if destination.exists() and any(destination.iterdir()):
        raise UsageError(f"{destination}: is not empty; models are laid out in a new directory")
    sources = [_verified_source(home, one) for one in wanted]
    _refuse_twice(sources)
    temporary = destination.with_name(f".{destination.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with full_disk_in_words(temporary, "lay the models out on the store's own disk: there they take no space"):
            _lay_out_all(sources, temporary)
        # Onto an empty directory as onto none.
        temporary.replace(destination)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    manifests = sorted((source.manifest for source in sources), key=lambda one: (one.model_id, one.commit))
    staged = tuple(_staged(manifest) for manifest in manifests)
    return StagedModels(directory=str(destination), models=staged, digest=_digest(manifests))


def _staged(manifest: ModelManifest) -> StagedModel:
    return StagedModel(
        model_id=manifest.model_id,
        commit=manifest.commit,
        digest=manifest.digest,
        bytes=manifest.size_bytes,
        num_files=len(manifest.files),
    )


def _digest(manifests: Sequence[ModelManifest]) -> str:
    ordered = sorted(manifests, key=lambda one: (one.model_id, one.commit))
    return digest_of([{"model_id": one.model_id, "commit": one.commit, "digest": one.digest} for one in ordered])


def _order(source: _Source) -> tuple[str, str]:
    return source.manifest.model_id, source.manifest.commit


def _manifest_of(home: Path, wanted: ModelPin | LocalModel) -> ModelManifest:
    if isinstance(wanted, LocalModel):
        return describe_directory(wanted)
    place = ModelPlace(hub_of(home), wanted.model_id, wanted.commit)
    return read_manifest(place) or verify_model(place)


def _verified_source(home: Path, wanted: ModelPin | LocalModel) -> _Source:
    if isinstance(wanted, LocalModel):
        manifest = describe_directory(wanted)
        return _Source(manifest, tuple(wanted.directory / file.file for file in manifest.files))
    place = ModelPlace(hub_of(home), wanted.model_id, wanted.commit)
    manifest = verify_model(place)
    return _Source(manifest, tuple(place.blob(file.blob) for file in manifest.files))


@dataclass(frozen=True)
class _LocalFile:
    name: str
    size_bytes: int


def describe_directory(model: LocalModel) -> ModelManifest:
    """The manifest of a directory that is given a name: what of it an image gets. Reads every byte.

    Its commit is the beginning of its digest, so that other content is another revision.
    """
    root = model.directory
    if not root.is_dir():
        raise NotFound(f"{model}: no such directory: {root}")
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    found = [_LocalFile(path.relative_to(root).as_posix(), path.stat().st_size) for path in paths]
    taken, left_out = select_files(found, Permissions())
    if not taken:
        raise NotFound(f"{model}: {root} holds no file that a model is loaded from")
    refuse_without_weights(str(root), taken, left_out)
    _check_weights(root, [file.name for file in taken])
    digests = {file.name: sha256_of_file(root / file.name) for file in taken}
    files = tuple(
        ModelFile(file=file.name, bytes=file.size_bytes, sha256=digests[file.name], blob=digests[file.name])
        for file in taken
    )
    digest = digest_of_files(files)
    return ModelManifest(
        model_id=model.model_id,
        commit=digest[:_COMMIT_DIGITS],
        digest=digest,
        files=files,
        left_out=left_out,
        source="directory",
    )


def _check_weights(root: Path, names: Sequence[str]) -> None:
    tensors = {name: read_tensor_names(root / name, name) for name in names if name.endswith(SAFETENSORS_SUFFIX)}
    for name in names:
        if name.endswith(INDEX_SUFFIX):
            index = read_index(root / name, name)
            check_index_files(name, index, names)
            check_index_tensors(name, index, tensors)


def _refuse_twice(sources: Sequence[_Source]) -> None:
    keys = [_order(source) for source in sources]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise UsageError(f"{', '.join('@'.join(key) for key in twice)}: wanted twice")


def _lay_out_all(sources: Sequence[_Source], hub: Path) -> None:
    hub.mkdir(parents=True)
    for source in sorted(sources, key=_order):
        _lay_out(source, hub)
    _name_main_commits(sources, hub)
    _settle(hub)


def _lay_out(source: _Source, hub: Path) -> None:
    place = ModelPlace(hub, source.manifest.model_id, source.manifest.commit)
    place.blobs.mkdir(parents=True, exist_ok=True)
    for file, path in zip(source.manifest.files, source.paths, strict=True):
        blob = place.blob(file.blob)
        if not blob.exists():
            # A local model's files are the user's: their modes and times are not ours to change.
            _copy(path, blob, may_link=source.manifest.source == "hub")
        place.link(file.file, file.blob)
    write_manifest(place, source.manifest.timeless)


def _copy(path: Path, target: Path, may_link: bool) -> None:
    if may_link:
        try:
            os.link(path, target)
            return
        except OSError:
            # Another disk, or one without hard links.
            pass
    shutil.copyfile(path, target)


def _name_main_commits(sources: Sequence[_Source], hub: Path) -> None:
    """What has one commit only is meant by its id alone."""
    ids = [source.manifest.model_id for source in sources]
    for source in sources:
        if ids.count(source.manifest.model_id) == 1:
            place = ModelPlace(hub, source.manifest.model_id, source.manifest.commit)
            place.main.parent.mkdir(parents=True)
            place.main.write_text(place.commit)


def _settle(root: Path) -> None:
    """Fixed modes and times for all below `root`, the deepest first: writing into a directory changes its time."""
    for directory, _, names in os.walk(root, topdown=False):
        here = Path(directory)
        for name in names:
            set_mode_and_time(here / name)
        for entry in here.iterdir():
            if entry.is_symlink():
                set_mode_and_time(entry)
        set_mode_and_time(here)
