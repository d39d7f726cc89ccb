"""A model of the hub at a commit into the store: found where it is there, fetched and checked where it is not."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tunewright.contracts.errors import IntegrityError
from tunewright.contracts.files import sync_directory
from tunewright.contracts.timestamps import utc_now
from tunewright.env_builder.exclusive import held
from tunewright.env_builder.models.disk import free_bytes, full_disk_in_words
from tunewright.env_builder.models.layout import ModelPlace, hub_of, set_mode_and_time
from tunewright.env_builder.models.manifest import (
    LeftOut,
    ModelFile,
    ModelManifest,
    digest_of_files,
    looks_whole,
    read_manifest,
    write_manifest,
)
from tunewright.env_builder.models.pins import ModelPin
from tunewright.env_builder.models.progress import TransferProgress, bytes_text
from tunewright.env_builder.models.retries import Listener
from tunewright.env_builder.models.selection import (
    INDEX_SUFFIX,
    SAFETENSORS_SUFFIX,
    Permissions,
    refusal,
    refuse_without_weights,
    select_files,
)
from tunewright.env_builder.models.weights import check_index_files, check_index_tensors, read_index, read_tensor_names

if TYPE_CHECKING:
    from tunewright.env_builder.models.hub import HubClient, HubFile

_WORKERS = 4
"""Files fetched at a time: the hub's servers give more bytes to several connections."""

_SPARE_BYTES = 64 << 20
"""Disk space that must be left when all is there: manifests, directories, other writers."""

_FULL_HINT = "free some space; what has come is kept, and the same command goes on from there"
_BLOCK_BYTES = 1 << 20
_SHA256_DIGITS = 64


@dataclass(frozen=True)
class FetchPlan:
    """What there is to do, before anything is done."""

    pin: ModelPin
    place: ModelPlace
    wanted: tuple[HubFile, ...]
    left_out: tuple[LeftOut, ...]
    there_bytes: int
    """Of the wanted bytes, so many are there already, whole files or parts."""

    free_bytes: int
    """Free space on the disk of the store."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all wanted files."""
        return sum({file.blob: file.size_bytes for file in self.wanted}.values())

    @property
    def missing_bytes(self) -> int:
        """Bytes that must come."""
        return self.size_bytes - self.there_bytes


@dataclass(frozen=True)
class FetchedModel:
    """A model that is there, and what it took."""

    manifest: ModelManifest
    place: ModelPlace
    fetched_bytes: int
    """Bytes that came in this call. None where it was there already."""

    was_there: bool
    """Whether nothing had to be done: then the network was not used."""


def ensure_model(
    home: Path,
    pin: ModelPin,
    permissions: Permissions,
    progress: TransferProgress,
    make_client: Callable[[], HubClient] | None = None,
) -> FetchedModel:
    """The model `pin` in the store below `home`, fetched where it is not there, by one process at a time.

    Raises NotFound, Unavailable, IntegrityError; PreflightFailed where it has no safetensors, or the disk no space.
    What has come is kept: the next call goes on from there.
    """
    place = ModelPlace(hub_of(home), pin.model_id, pin.commit)
    if found := find_model(place, permissions):
        return FetchedModel(found, place, 0, was_there=True)
    client = (make_client or default_client)()
    plan = plan_fetch(place, pin, permissions, client, progress.note)
    refuse_without_space(plan)
    with full_disk_in_words(place.hub, _FULL_HINT), _held(place):
        if found := find_model(place, permissions):
            return FetchedModel(found, place, 0, was_there=True)
        _withdraw_unless_whole(place)
        return _fetch(plan, client, progress)


def _withdraw_unless_whole(place: ModelPlace) -> None:
    """A manifest must not vouch for what is damaged. Where only more was allowed, it goes on vouching for the rest."""
    manifest = read_manifest(place)
    if manifest is not None and not looks_whole(place, manifest):
        place.manifest.unlink()


def find_model(place: ModelPlace, permissions: Permissions) -> ModelManifest | None:
    """The model, where all of it that is allowed is there. Cheap, and without the network."""
    manifest = read_manifest(place)
    if manifest is None or not looks_whole(place, manifest):
        return None
    return None if any(permissions.cover(one.reason) for one in manifest.left_out) else manifest


def plan_fetch(
    place: ModelPlace, pin: ModelPin, permissions: Permissions, client: HubClient, note: Callable[[str], None]
) -> FetchPlan:
    """Ask the hub what the model has, and decide what is taken. Writes nothing."""
    files = client.list_files(pin, Listener(note))
    wanted, left_out = select_files(files, permissions)
    refuse_without_weights(f"{pin.model_id} at {pin.commit[:12]}", wanted, left_out)
    if not wanted:
        raise refusal("model-empty", f"{pin} has no file that a model is loaded from", "is it a model's repository?")
    there = sum({file.blob: _there_bytes(place, file) for file in wanted}.values())
    free = free_bytes(place.hub)
    return FetchPlan(pin, place, wanted, left_out, there, free)


def refuse_without_space(plan: FetchPlan) -> None:
    """Raise PreflightFailed where the disk does not hold what is missing."""
    needed = plan.missing_bytes + _SPARE_BYTES
    if plan.missing_bytes and needed > plan.free_bytes:
        message = (
            f"{plan.pin.model_id} needs {bytes_text(needed)} more in {plan.place.hub}, "
            f"{bytes_text(plan.free_bytes)} are free"
        )
        raise refusal("model-disk-space", message, "free some, or set TUNEWRIGHT_HOME to a larger disk")


def default_client() -> HubClient:
    """The hub that `HF_ENDPOINT` names."""
    from tunewright.env_builder.models.hub import HubClient

    return HubClient()


def _fetch(plan: FetchPlan, client: HubClient, progress: TransferProgress) -> FetchedModel:
    """Configuration first, so that a model that cannot be whole is known before its weights are fetched."""
    from tunewright.env_builder.models.hub import LIBRARY_VERSION

    there = sum({file.blob: _there_bytes(plan.place, file) for file in plan.wanted}.values())
    progress.start(plan.pin.model_id, plan.size_bytes, there)
    transfer = _Transfer(plan, client, progress)
    weights = [file for file in plan.wanted if file.name.endswith(SAFETENSORS_SUFFIX)]
    files = transfer.fetch([file for file in plan.wanted if file not in weights])
    indexes = _read_indexes(plan)
    files += transfer.fetch(weights)
    _check_weights(plan.place, weights, indexes)
    for file in files:
        plan.place.link(file.file, file.blob)
    plan.place.sync_links()
    ordered = tuple(sorted(files, key=lambda file: file.file))
    manifest = ModelManifest(
        model_id=plan.pin.model_id,
        commit=plan.pin.commit,
        digest=digest_of_files(ordered),
        files=ordered,
        left_out=plan.left_out,
        endpoint=client.address,
        fetched_at=utc_now(),
        hub_library=LIBRARY_VERSION,
    )
    write_manifest(plan.place, manifest)
    return FetchedModel(manifest, plan.place, transfer.came_bytes, was_there=False)


def _read_indexes(plan: FetchPlan) -> dict[str, dict[str, str]]:
    """The indexes of the model, each with its files announced."""
    indexes = {}
    for file in plan.wanted:
        if file.name.endswith(INDEX_SUFFIX):
            indexes[file.name] = read_index(plan.place.blob(file.blob), file.name)
            check_index_files(file.name, indexes[file.name], (one.name for one in plan.wanted))
    return indexes


def _check_weights(place: ModelPlace, weights: Sequence[HubFile], indexes: dict[str, dict[str, str]]) -> None:
    tensors = {file.name: read_tensor_names(place.blob(file.blob), file.name) for file in weights}
    for name, index in indexes.items():
        check_index_tensors(name, index, tensors)


class _Cancelled(Exception):
    """Another file failed, or the user has had enough."""


class _Transfer:
    """Files on their way, several at a time."""

    def __init__(self, plan: FetchPlan, client: HubClient, progress: TransferProgress) -> None:
        self._plan = plan
        self._client = client
        self._progress = progress
        self._cancelled = threading.Event()
        self._listener = Listener(progress.note, self.advance, self._pause)
        self._lock = threading.Lock()
        self.came_bytes = 0

    def fetch(self, files: Sequence[HubFile]) -> list[ModelFile]:
        """Each file in place and checked. The first failure ends all; what has come of the others is kept."""
        # One content may have several names.
        by_blob = {file.blob: file for file in files}
        with ThreadPoolExecutor(_WORKERS) as pool:
            try:
                running = {blob: pool.submit(self._fetch_one, file) for blob, file in by_blob.items()}
                done, _ = wait(running.values(), return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BaseException:
                self._cancelled.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        sha256 = {blob: future.result() for blob, future in running.items()}
        return [
            ModelFile(file=file.name, bytes=file.size_bytes, sha256=sha256[file.blob], blob=file.blob) for file in files
        ]

    def _fetch_one(self, file: HubFile) -> str:
        """Bring one content into place, checked. Gives its SHA-256."""
        place = self._plan.place
        blob, incomplete = place.blob(file.blob), place.incomplete(file.blob)
        if blob.is_file():
            if (sha256 := check_content(blob, file)) is not None:
                return sha256
            self._progress.note(f"{file.name}: what was there was not whole; it is fetched again")
            self.advance(-min(blob.stat().st_size, file.size_bytes))
            blob.unlink()
        begun = incomplete.exists()
        self._client.download(self._plan.pin, file, incomplete, self._listener)
        if (sha256 := check_content(incomplete, file)) is None and begun:
            # What an earlier call left may have been torn by a power cut: begin anew, once.
            self._progress.note(f"{file.name}: what was fetched earlier does not fit; it is fetched anew")
            self.advance(-incomplete.stat().st_size)
            incomplete.unlink()
            self._client.download(self._plan.pin, file, incomplete, self._listener)
            sha256 = check_content(incomplete, file)
        if sha256 is None:
            incomplete.unlink()
            kind = "sha256" if len(file.blob) == _SHA256_DIGITS else "git id"
            raise IntegrityError(
                f"{self._plan.pin}: {file.name} is not what the hub announced ({kind} {file.blob}); it is thrown away",
                "try again; if it stays so, what stands between here and the hub changes it",
            )
        _put_in_place(incomplete, blob)
        return sha256

    def _pause(self, seconds: float) -> None:
        if self._cancelled.wait(seconds):
            raise _Cancelled

    def advance(self, num_bytes: int) -> None:
        """Count, and stop where all are to stop."""
        if self._cancelled.is_set():
            raise _Cancelled
        with self._lock:
            self.came_bytes += max(num_bytes, 0)
        self._progress.advance(num_bytes)


def check_content(path: Path, file: HubFile) -> str | None:
    """SHA-256 of the file at `path`, where its content is what its announced name says; else None."""
    if path.stat().st_size != file.size_bytes:
        return None
    sha256 = hashlib.sha256()
    git_id = hashlib.sha1(f"blob {file.size_bytes}\0".encode(), usedforsecurity=False)
    large = len(file.blob) == _SHA256_DIGITS
    with path.open("rb") as content:
        while block := content.read(_BLOCK_BYTES):
            sha256.update(block)
            if not large:
                git_id.update(block)
    actual = sha256.hexdigest() if large else git_id.hexdigest()
    return sha256.hexdigest() if actual == file.blob else None


def _put_in_place(incomplete: Path, blob: Path) -> None:
    with incomplete.open("rb") as file:
        os.fsync(file.fileno())
    set_mode_and_time(incomplete)
    os.replace(incomplete, blob)
    sync_directory(blob.parent)


def _there_bytes(place: ModelPlace, file: HubFile) -> int:
    for path in (place.blob(file.blob), place.incomplete(file.blob)):
        if path.is_file():
            return min(path.stat().st_size, file.size_bytes)
    return 0


def _held(place: ModelPlace) -> AbstractContextManager[None]:
    """Hold the model's lock while it is fetched."""
    place.blobs.mkdir(parents=True, exist_ok=True)
    return held(place.lock, f"another process fetches {place.model_id}; waiting for it")
