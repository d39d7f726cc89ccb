"""Rows of parquet and Arrow files: row groups and record batches are parts, and their columns become Python values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tunewright.contracts.errors import InvalidDataset
from tunewright.dataset_cacher.reading.opening import open_bytes, sha256_of
from tunewright.dataset_cacher.reading.scans import PART_BYTES, NumberedRow, Part, Scan, joined_parts, whole_file
from tunewright.dataset_cacher.reading.sources import SourceFile

BATCH_ROWS = 1024
"""Rows that are Python values at once."""

_FILE_MAGIC = b"ARROW1"
"""How an Arrow file with a footer starts; a stream has none."""


def scan_table(file: SourceFile) -> Scan:
    """Digest, rows and parts. The file is read for its digest; its parts are known from what describes them."""
    sha256 = sha256_of(file)
    with _naming(file):
        parts = _parquet_parts(file) if file.kind == "parquet" else _arrow_parts(file)
    return Scan(sha256, sum(part.num_rows for part in parts), parts)


def read_table(file: SourceFile, part: Part) -> Iterator[NumberedRow]:
    """The rows of a part."""
    number = part.first_row
    with _naming(file):
        for batch in _parquet_batches(file, part) if file.kind == "parquet" else _arrow_batches(file, part):
            for start in range(0, batch.num_rows, BATCH_ROWS):
                for row in batch.slice(start, BATCH_ROWS).to_pylist():
                    number += 1
                    yield number, row


@contextmanager
def _naming(file: SourceFile) -> Iterator[None]:
    import pyarrow as arrow

    try:
        yield
    except arrow.ArrowException as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidDataset(f"{file.shown}: cannot be read as {file.kind}: {reason}") from None


@contextmanager
def _parquet_table(file: SourceFile) -> Iterator[Any]:
    from pyarrow import parquet

    if file.is_remote:
        with open_bytes(file) as raw, parquet.ParquetFile(raw) as table:
            yield table
    else:
        with parquet.ParquetFile(file.location) as table:
            yield table


def _parquet_parts(file: SourceFile) -> tuple[Part, ...]:
    with _parquet_table(file) as table:
        metadata = table.metadata
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        return joined_parts([(group.num_rows, group.total_byte_size) for group in groups])


def _parquet_batches(file: SourceFile, part: Part) -> Iterator[Any]:
    with _parquet_table(file) as table:
        yield from table.iter_batches(batch_size=BATCH_ROWS, row_groups=list(range(part.start, part.end)))


@contextmanager
def _arrow_source(file: SourceFile) -> Iterator[tuple[Any, bool]]:
    """The file as Arrow reads it, mapped into memory where it is local, and whether it has a footer."""
    import pyarrow as arrow

    if file.is_remote:
        with open_bytes(file) as raw, arrow.PythonFile(raw, mode="r") as source:
            yield source, _has_footer(source)
    elif file.path.stat().st_size == 0:
        raise arrow.ArrowInvalid("the file is empty")  # which cannot be mapped
    else:
        with arrow.memory_map(file.location) as source:
            yield source, _has_footer(source)


def _has_footer(source: Any) -> bool:
    magic = source.read(len(_FILE_MAGIC))
    source.seek(0)
    return bytes(magic) == _FILE_MAGIC


def _arrow_parts(file: SourceFile) -> tuple[Part, ...]:
    from pyarrow import ipc

    with _arrow_source(file) as (source, has_footer):
        if has_footer:
            reader = ipc.open_file(source)
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
            return joined_parts([(batch.num_rows, batch.nbytes) for batch in batches])
        if _has_dictionaries(ipc.open_stream(source).schema):
            # A batch of it cannot be read without the dictionaries that came before.
            source.seek(0)
            return whole_file(sum(batch.num_rows for batch in ipc.open_stream(source)))
        source.seek(0)
        return _stream_parts(source)


def _stream_parts(source: Any) -> tuple[Part, ...]:
    """Parts of a stream of record batches, in bytes."""
    from pyarrow import ipc

    schema = ipc.read_schema(source)
    parts, row, rows, start = [], 0, 0, source.tell()
    for batch, end in _stream_batches(source, schema):
        rows += batch.num_rows
        if end - start >= PART_BYTES:
            parts.append(Part(row, rows, start, end))
            row, rows, start = row + rows, 0, end
        last = end
    if rows:
        parts.append(Part(row, rows, start, last))
    return tuple(part for part in parts if part.num_rows)


def _stream_batches(source: Any, schema: Any) -> Iterator[tuple[Any, int]]:
    """The record batches from where `source` stands, each with the byte behind it."""
    from pyarrow import ipc

    while True:
        try:
            message = ipc.read_message(source)
        except EOFError:  # a stream may end without its mark of the end
            return
        if message is None:
            return
        yield ipc.read_record_batch(message, schema), source.tell()


def _arrow_batches(file: SourceFile, part: Part) -> Iterator[Any]:
    from pyarrow import ipc

    with _arrow_source(file) as (source, has_footer):
        if has_footer:
            reader = ipc.open_file(source)
            yield from (reader.get_batch(index) for index in range(part.start, part.end))
        elif not part.end:
            yield from ipc.open_stream(source)
        else:
            schema = ipc.read_schema(source)
            source.seek(part.start)
            for batch, end in _stream_batches(source, schema):
                yield batch
                if end >= part.end:
                    return


def _has_dictionaries(schema: Any) -> bool:
    import pyarrow as arrow

    def has(kind: Any) -> bool:
        inner = [kind.field(index).type for index in range(kind.num_fields)]
        return arrow.types.is_dictionary(kind) or any(has(one) for one in inner)

    return any(has(field.type) for field in schema)
