"""The prepared dataset: the question, the answer, and the manifest that vouches for the files of the cache.

A cache is a directory `<cache_root>/<digest>/` with

    tokens-00000.arrow ...  Arrow IPC files, columns `input_ids` (list of the smallest unsigned type that holds
                            the vocabulary), `spans` (list of uint32: start, end, start, end, ... half-open token
                            ranges that count in the loss), `source` (uint16: index into the mix) and
                            `row` (uint32: index of the row within its source)
    packing.arrow           the packing plan: column `rows`, a list of uint32 row numbers of the cache for each packed
                            row
    statistics.json         counts and lengths, for people
    tokenizer.json          the tokenizer that gave the ids, so that a cache can be read as text on its own
    manifest.json           written last; a directory without it is not a cache

A cache of preferences (`sequences_per_example` of the manifest is 2) holds two sequences for each pair: sequence 2k is
the chosen one of pair k and sequence 2k + 1 the rejected one, in the same file and record batch, of the same `source`
and `row`. The `spans` of both are the answers behind the prompt that they share. Its packing plan keeps pairs whole.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from tunewright.contracts.errors import CacheCorrupted, NotFound
from tunewright.contracts.experiment import DatasetSpec
from tunewright.contracts.files import sha256_of_file
from tunewright.contracts.spec import Spec, digest_of

MANIFEST_FILE = "manifest.json"


class DatasetRequest(Spec):
    """The question: this mix, tokenized with this tokenizer and template."""

    dataset: DatasetSpec
    """The experiment's `[dataset]`."""

    tokenizer: str
    """Absolute path of the directory with the tokenizer's files, or a hub id."""

    tokenizer_revision: str | None = None
    """The commit of a hub id."""

    chat_template: str
    """A registered template's name, or `tokenizer`."""

    seed: int
    """Decides sampling and shuffling."""

    project_root: str
    """Absolute: relative sources start here."""

    plan_only: bool = False
    """Only compute the digest: prepare nothing, write nothing, open no socket."""


class CachedDataset(Spec):
    """The answer: a cache the trainer can read. Written to `dataset.json`."""

    digest: str
    """SHA-256 of everything that decides the tokens; the name of the cache's directory."""

    path: str
    """Where the cache is, as the nodes see it. Absolute path or URL."""

    rows: int | None = None
    """Sequences in it: a conversation each, and of a pair both. None in a plan before it is prepared."""

    tokens: int | None = None
    """Tokens in it."""

    trained_tokens: int | None = None
    """Tokens that count in the loss."""

    dropped: dict[str, int] = {}
    """Rows of the sources that were left out, by reason: a pair counts once."""

    sources: tuple[dict[str, Any], ...] = ()
    """Each source of the mix with the SHA-256 of its files or its revision, and the rows taken."""


class FileRecord(Spec):
    """One file and what it must contain."""

    file: str
    """Path relative to the directory of the record."""

    bytes: int
    """Its size."""

    sha256: str
    """SHA-256 of its content, 64 hexadecimal digits."""

    @classmethod
    def of(cls, directory: Path, file: str) -> FileRecord:
        """The record of `directory / file` as it is now."""
        path = directory / file
        return cls(file=file, bytes=path.stat().st_size, sha256=sha256_of_file(path))

    def problem(self, directory: Path) -> str | None:
        """Why `directory / file` is not what this record says, or None where it is."""
        path = directory / self.file
        if not path.is_file():
            return f"{path}: is missing"
        if path.stat().st_size != self.bytes:
            return f"{path}: has {path.stat().st_size} bytes, must have {self.bytes}"
        actual = sha256_of_file(path)
        return None if actual == self.sha256 else f"{path}: sha256 is {actual}, must be {self.sha256}"


class ShardRecord(FileRecord):
    """One token shard."""

    rows: int
    """Sequences in it."""

    tokens: int
    """Tokens in it."""

    trained_tokens: int
    """Tokens in it that count in the loss."""


class DatasetManifest(Spec):
    """`manifest.json` of a cache: what the digest covers, and the digest of every file."""

    format_version: int
    """Version of the cache's layout and of what our own code decides."""

    digest: str
    """SHA-256 of `key`; the name of the cache's directory."""

    key: dict[str, Any]
    """Everything the digest covers, readable: `digest == digest_of(key)`."""

    id_type: str
    """The unsigned type of `input_ids`: `uint8`, `uint16`, `uint32`."""

    vocabulary_size: int
    """One more than the largest token id the tokenizer can give."""

    eos_token_id: int | None
    """The tokenizer's end-of-sequence token, None where it has none."""

    pad_token_id: int | None
    """The tokenizer's padding token, None where it has none."""

    rows: int
    """Sequences in all shards: conversations, of a pair both. There are `rows / sequences_per_example` examples."""

    sequences_per_example: int = 1
    """Sequences beside each other that belong together: 1, or 2 for preferences, chosen before rejected."""

    tokens: int
    """Tokens in all shards."""

    trained_tokens: int
    """Tokens in all shards that count in the loss."""

    dropped: dict[str, int] = {}
    """Rows of the sources that were left out, by reason: a pair counts once."""

    sources: tuple[dict[str, Any], ...] = ()
    """As in `CachedDataset.sources`, with what each contributed and dropped."""

    engine: dict[str, Any] = {}
    """What encoded it: `name`, `version`, and how much of it was compared with the reference. It decides no token."""

    shards: tuple[ShardRecord, ...] = Field(min_length=1)
    """The token shards, in the order of their rows."""

    packing: FileRecord
    """`packing.arrow`."""

    statistics: FileRecord
    """`statistics.json`."""

    tokenizer: FileRecord | None = None
    """The tokenizer's own `tokenizer.json`. None in a cache that was made elsewhere, without one."""

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """Every file this manifest vouches for."""
        return (*self.shards, self.packing, self.statistics, *([self.tokenizer] if self.tokenizer else []))


def read_manifest(cache: Path) -> DatasetManifest:
    """The manifest of the cache at `cache`.

    Raises NotFound where there is no whole cache, CacheCorrupted where the manifest cannot be read or its
    digest does not fit its key or its directory's name.
    """
    path = cache / MANIFEST_FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"{cache}: no prepared dataset (it has no {MANIFEST_FILE})") from None
    return parse_manifest(data, str(path))


def parse_manifest(data: bytes, place: str) -> DatasetManifest:
    """The manifest in `data`, which was read at `place`. Raises CacheCorrupted as `read_manifest`."""
    try:
        manifest = DatasetManifest.model_validate_json(data)
    except ValidationError as error:
        raise CacheCorrupted(f"{place}: is not a dataset manifest: {error.errors()[0]['msg']}") from None
    if digest_of(manifest.key) != manifest.digest:
        raise CacheCorrupted(f"{place}: its key does not give its digest {manifest.digest}")
    return manifest


def verify_cache(cache: Path) -> DatasetManifest:
    """Read every file of the cache at `cache` and compare it with its digest.

    Raises CacheCorrupted with every file that differs, named.
    """
    manifest = read_manifest(cache)
    problems = [problem for record in manifest.files if (problem := record.problem(cache))]
    if problems:
        raise CacheCorrupted(
            "\n".join(problems), "remove the cache's directory and prepare it again; it was not trained on"
        )
    return manifest


def mark_used(cache: Path) -> None:
    """Note that the cache in the directory `cache` is used now: the time of the directory itself says so to `gc`.

    Where we may not write, nothing is noted.
    """
    with suppress(OSError):
        os.utime(cache)
