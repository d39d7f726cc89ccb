"""What a process on a node of a Ray cluster does: one part after the other, with tools that are made once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from tunewright.contracts.errors import BrokenPlugin, NotFound, TunewrightError, Unavailable
from tunewright.contracts.files import sha256_of_file
from tunewright.dataset_cacher.inputs import DECIDING_LIBRARIES, Inputs
from tunewright.dataset_cacher.preparation.part_encoding import PartEncoder, Tools
from tunewright.dataset_cacher.preparation.parts import EncodedPart, PartTask
from tunewright.dataset_cacher.tokens.engines import REFERENCE
from tunewright.dataset_cacher.tokens.self_check import EngineDiffers
from tunewright.dataset_cacher.tokens.tokenizer_files import TOKENIZER_FILE

_SIZE, _MODIFIED = 0, 1
"""Places in a local file's signature. The others, the inode and its change, are a machine's own."""


@dataclass(frozen=True)
class Job:
    """What all parts of a preparation share. With it a node needs nothing but the sources."""

    inputs: Inputs
    engine: str
    tokenizer: bytes
    """The content of `tokenizer.json`: the model's directory need not be there."""

    versions: dict[str, str]
    """Of the packages that decide tokens, where the job comes from."""

    @classmethod
    def of(cls, inputs: Inputs, engine: str) -> Job:
        """The job of a preparation that this process leads."""
        versions = {name: metadata.version(name) for name in (*DECIDING_LIBRARIES, engine)}
        return cls(inputs, engine, inputs.tokenizer.tokenizer.read_bytes(), versions)


@dataclass(frozen=True)
class Answer:
    """What came of a part: its tokens, or why there are none."""

    node: str
    """As messages name it."""

    encoded: EncodedPart | None = None
    error: Exception | None = None


def answer(run: str, find_job: Callable[[], Job], task: PartTask, node: str) -> Answer:
    """Encode a part of the job that is known here as `run`, or else is found. Errors of ours are answers too."""
    try:
        if run not in _workers:
            _workers.clear()  # a process serves one preparation at a time
            _workers[run] = _NodeWorker(find_job())
        return Answer(node, _workers[run].encode(task))
    except (BrokenPlugin, NotFound, Unavailable) as error:
        return Answer(node, error=type(error)(f"{error.message} (on node {node})", error.hint))
    except (EngineDiffers, TunewrightError) as error:
        return Answer(node, error=error)


class _NodeWorker:
    """A job in this process."""

    def __init__(self, job: Job) -> None:
        _check_versions(job)
        self._inputs = job.inputs
        self._encoder = PartEncoder(job.inputs, _make_tools(job))
        self._known_files: set[tuple[int, int]] = set()

    def encode(self, task: PartTask) -> EncodedPart:
        """The part's tokens. Raises Unavailable where its file here is not the one that was asked for."""
        if (task.source, task.file) not in self._known_files:
            _check_file(self._inputs, task)
            self._known_files.add((task.source, task.file))
        return self._encoder.encode(task)


_workers: dict[str, _NodeWorker] = {}


def _make_tools(job: Job) -> Tools:
    with tempfile.TemporaryDirectory(prefix="tunewright-tokenizer-") as directory:
        files = replace(job.inputs.tokenizer, directory=Path(directory))
        (Path(directory) / TOKENIZER_FILE).write_bytes(job.tokenizer)
        return Tools.make(replace(job.inputs, tokenizer=files), job.engine)


def _check_versions(job: Job) -> None:
    """Other versions may give other tokens, under the same digest."""
    for name, wanted in job.versions.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            found = "none"
        if found != wanted:
            what = "encodes" if name in (job.engine, REFERENCE) else "decides tokens"
            message = f"{name} {what}: {wanted} is needed as where `prepare` runs, {found} is installed"
            raise Unavailable(message, f"pip install {name}=={wanted}, on every node")


def _check_file(inputs: Inputs, task: PartTask) -> None:
    """A node must read the very file whose digest is in the key, or one that is equal to it byte for byte."""
    source = inputs.sources[task.source]
    file, signature = source.files[task.file], source.signatures[task.file]
    if file.is_remote:
        return
    try:
        stat = os.stat(file.path)
        is_same = [stat.st_size, stat.st_mtime_ns] == [signature[_SIZE], signature[_MODIFIED]]
        is_same = is_same or (stat.st_size == signature[_SIZE] and _has_digest(file.path, source.sha256s[task.file]))
    except OSError as error:
        hint = "sources must be where every node reads them: a shared directory, s3:// or gs://"
        raise Unavailable(f"{file.shown}: cannot be read: {error.strerror}: {file.path}", hint) from None
    if not is_same:
        raise Unavailable(f"{file.shown}: is another file than where `prepare` runs: {file.path}", "copy it again")


def _has_digest(path: Path, sha256: str) -> bool:
    """A copy may have times of its own."""
    return sha256_of_file(path) == sha256
