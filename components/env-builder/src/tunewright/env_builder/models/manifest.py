"""The manifest of a model, written last: every file with its digest, and what was left out and why."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from tunewright.contracts.datasets import FileRecord
from tunewright.contracts.errors import IntegrityError, NotFound
from tunewright.contracts.files import sync_directory, write_json_atomically
from tunewright.contracts.spec import Spec, digest_of
from tunewright.env_builder.models.layout import ModelPlace

FORMAT_VERSION = 1
_SHOWN_PROBLEMS = 10


class ModelFile(FileRecord):
    """One file of a model."""

    blob: str = Field(pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?$")
    """Its name in `blobs/`: the SHA-256 of a large file, the git id of a small one, as the hub calls them."""


class LeftOut(Spec):
    """A file of the model that is not here."""

    file: str
    """Path relative to the model."""

    bytes: int
    """Its size."""

    reason: str
    """Code of the reason: `unsafe-weights`, `other-framework`, `code`, `duplicate-weights`, `not-needed`."""


class ModelManifest(Spec):
    """`manifests/<commit>.json` of a model. A model without it is not there."""

    format_version: int = FORMAT_VERSION
    """Version of this document and of the layout around it."""

    model_id: str
    """What `from_pretrained` calls it."""

    commit: str = Field(pattern=r"^[0-9a-f]{40}$")
    """The hub's commit; for a directory that was given a name, the beginning of `digest`."""

    digest: str
    """SHA-256 over name, size and SHA-256 of every file: the same for the same content, wherever it lies."""

    files: tuple[ModelFile, ...] = Field(min_length=1)
    """Every file, by name."""

    left_out: tuple[LeftOut, ...] = ()
    """Every file of the model that was not taken."""

    source: Literal["hub", "directory"] = "hub"
    """Where it came from."""

    endpoint: str | None = None
    """The hub it was fetched from, without credentials."""

    fetched_at: str | None = None
    """When, ISO 8601 in UTC. None in a staged model, whose bytes must not depend on it."""

    hub_library: str | None = None
    """The version of huggingface_hub it was fetched with. None in a staged model."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.bytes for file in self.files)

    @property
    def timeless(self) -> ModelManifest:
        """This manifest without what differs from one fetch of the same model to the next."""
        return self.model_copy(update={"endpoint": None, "fetched_at": None, "hub_library": None})


def digest_of_files(files: Iterable[FileRecord]) -> str:
    """SHA-256 over name, size and SHA-256 of `files`, whatever their order and place."""
    ordered = sorted(files, key=lambda file: file.file)
    return digest_of([{"file": file.file, "bytes": file.bytes, "sha256": file.sha256} for file in ordered])


def write_manifest(place: ModelPlace, manifest: ModelManifest) -> None:
    """Write the manifest: from now on the model is there."""
    place.manifest.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomically(place.manifest, manifest.to_document())
    sync_directory(place.repository)


def read_manifest(place: ModelPlace) -> ModelManifest | None:
    """The manifest of the model at `place`, None where the model is not there.

    Raises IntegrityError for one that cannot be read, or whose digest does not fit its files.
    """
    try:
        manifest = ModelManifest.model_validate_json(place.manifest.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise _bad(place, f"is not a model's manifest: {where}: {problem['msg']}") from None
    if digest_of_files(manifest.files) != manifest.digest:
        raise _bad(place, f"its files do not give its digest {manifest.digest}")
    if (manifest.model_id, manifest.commit) != (place.model_id, place.commit):
        raise _bad(place, f"is of {manifest.model_id}@{manifest.commit}")
    return manifest


def _bad(place: ModelPlace, what: str) -> IntegrityError:
    return IntegrityError(f"{place.manifest}: {what}", "remove it and fetch the model again; whole files are kept")


def looks_whole(place: ModelPlace, manifest: ModelManifest) -> bool:
    """Whether every file is there with its size. Cheap: `verify_model` reads all of it."""
    paths = ((place.snapshot / file.file, file.bytes) for file in manifest.files)
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)


def list_models(hub: Path) -> list[ModelManifest]:
    """Every model below `hub`, by id and commit."""
    found = (read_manifest(ModelPlace.of_manifest(path)) for path in sorted(hub.glob("models--*/manifests/*.json")))
    return sorted((one for one in found if one), key=lambda one: (one.model_id, one.commit))


def verify_model(place: ModelPlace) -> ModelManifest:
    """Read every byte of the model at `place` and compare it with its manifest.

    Raises NotFound where it is not there, IntegrityError naming every file that differs.
    """
    manifest = read_manifest(place)
    if manifest is None:
        raise NotFound(
            f"{place.model_id}@{place.commit}: no such model in {place.hub}",
            f"fetch it: env-builder fetch-model {place.model_id} --revision {place.commit}",
        )
    problems = [problem for file in manifest.files if (problem := _problem(place, file))]
    known = {file.file for file in manifest.files}
    problems += [f"{place.snapshot / name}: is not of the model" for name in sorted(_found(place) - known)]
    if problems:
        shown = "".join(f"\n  {problem}" for problem in problems[:_SHOWN_PROBLEMS])
        more = f"\n  and {len(problems) - _SHOWN_PROBLEMS} more" if len(problems) > _SHOWN_PROBLEMS else ""
        hint = "remove what is named and fetch the model again: only that is fetched"
        raise IntegrityError(f"{manifest.model_id}@{manifest.commit} does not match its manifest:{shown}{more}", hint)
    return manifest


def _problem(place: ModelPlace, file: ModelFile) -> str | None:
    """What is wrong with one file, by the path that holds its bytes."""
    blob = place.blob(file.blob)
    if (place.snapshot / file.file).resolve() != blob.resolve():
        return f"{place.snapshot / file.file}: does not lead to {blob}"
    return file.model_copy(update={"file": f"blobs/{file.blob}"}).problem(place.repository)


def _found(place: ModelPlace) -> set[str]:
    paths = (path for path in place.snapshot.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(place.snapshot).as_posix() for path in paths}
