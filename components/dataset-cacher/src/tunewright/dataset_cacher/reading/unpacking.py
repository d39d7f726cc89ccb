"""Large compressed files of lines, decompressed once into the work directory: all processes then read parts of them."""

from __future__ import annotations

import errno
import io
import os
import shutil
from dataclasses import replace
from pathlib import Path

from tunewright.contracts.errors import InvalidDataset, Unavailable
from tunewright.dataset_cacher.inputs import Inputs, SourceInputs
from tunewright.dataset_cacher.reading.opening import READ_BYTES, HashedBytes, decompressed, open_bytes, signature_of
from tunewright.dataset_cacher.reading.readers import naming
from tunewright.dataset_cacher.reading.sources import SourceFile

LARGE_BYTES = 4 << 20
"""Compressed size from which a file is worth the disk: below it is one part anyway, or nearly."""

DIRECTORY = "unpacked"


def with_unpacked_files(inputs: Inputs, work: Path) -> Inputs:
    """`inputs`, with large compressed files replaced by plain ones below `work`; those are found there again.

    Raises InvalidDataset for a file that cannot be decompressed or is not the one of the key, Unavailable where the
    disk is full.
    """
    return replace(inputs, sources=tuple(_with_unpacked(source, work / DIRECTORY) for source in inputs.sources))


def _with_unpacked(source: SourceInputs, directory: Path) -> SourceInputs:
    files = tuple(
        _unpacked(file, sha256, directory) if _is_large(file, signature[0]) else file
        for file, sha256, signature in zip(source.files, source.sha256s, source.signatures, strict=True)
    )
    signatures = tuple(
        signature if file is before else signature_of(file)
        for file, before, signature in zip(files, source.files, source.signatures, strict=True)
    )
    return replace(source, files=files, signatures=signatures)


def _is_large(file: SourceFile, size_bytes: int | str) -> bool:
    return file.kind == "jsonl" and bool(file.compression) and int(size_bytes) >= LARGE_BYTES


def _unpacked(file: SourceFile, sha256: str, directory: Path) -> SourceFile:
    path = directory / f"{sha256}.jsonl"
    if not path.is_file():
        directory.mkdir(exist_ok=True)
        temporary = path.with_suffix(".tmp")
        with naming(file):
            if _unpack(file, temporary) != sha256:
                raise InvalidDataset(f"{file.shown}: changed while it was read", "try again when it is written")
        os.replace(temporary, path)
    return SourceFile(str(path), file.shown, file.kind)


def _unpack(file: SourceFile, path: Path) -> str:
    """Write the content to `path`. Gives the SHA-256 of the compressed file."""
    with open_bytes(file) as raw, path.open("wb") as plain:
        hashed = HashedBytes(raw)
        with decompressed(io.BufferedReader(hashed), file.compression) as content:
            try:
                shutil.copyfileobj(content, plain, READ_BYTES)
                plain.flush()
                os.fsync(plain.fileno())
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                words = f"{path.parent}: the disk is full: {file.shown} is decompressed there"
                raise Unavailable(words, "give a cache root on a larger disk") from None
        return hashed.sha256()
