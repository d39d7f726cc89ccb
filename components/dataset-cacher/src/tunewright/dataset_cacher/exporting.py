"""A cache in the formats of others: jsonl, parquet, and what `datasets.load_from_disk` opens."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as arrow
from pyarrow import parquet

from tunewright.contracts.datasets import DatasetManifest
from tunewright.contracts.errors import UsageError
from tunewright.dataset_cacher.shards import CachedRow, read_shards

IGNORED = -100
"""The label of a token that does not count: what PyTorch's cross-entropy leaves out."""

BATCH_ROWS = 1000

_SCHEMA = arrow.schema([("input_ids", arrow.list_(arrow.int32())), ("labels", arrow.list_(arrow.int64()))])


def export_cache(cache: Path, manifest: DatasetManifest, export_format: str, target: Path) -> None:
    """Write the rows of the cache, in its order, to `target`, which appears once it is whole.

    Raises UsageError for a target that cannot be written: a directory that is there already, a missing parent.
    """
    if not target.parent.is_dir():
        raise UsageError(f"--to {target}: there is no directory {target.parent}")
    if target.is_dir():
        raise UsageError(f"--to {target}: is a directory that exists", "give a name that is not taken")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        _WRITERS[export_format](read_shards(cache, manifest), manifest, temporary)
        temporary.replace(target)
    except BaseException:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)
        raise


def labels_of(row: CachedRow) -> list[int]:
    """The ids where a token counts in the loss, IGNORED elsewhere."""
    ids = row.ids.tolist()
    labels = [IGNORED] * len(ids)
    for start, end in row.spans.reshape(-1, 2).tolist():
        labels[start:end] = ids[start:end]
    return labels


def _write_jsonl(rows: Iterator[CachedRow], _: DatasetManifest, target: Path) -> None:
    with target.open("wb") as file:
        for row in rows:
            file.write(orjson.dumps({"input_ids": row.ids.tolist(), "labels": labels_of(row)}) + b"\n")


def _write_parquet(rows: Iterator[CachedRow], _: DatasetManifest, target: Path) -> None:
    with parquet.ParquetWriter(str(target), _SCHEMA) as sink:
        for batch in _batches(rows, _SCHEMA):
            sink.write_batch(batch)


def _write_hf(rows: Iterator[CachedRow], manifest: DatasetManifest, target: Path) -> None:
    """What `Dataset.save_to_disk` writes: an Arrow stream, the list of its files, the types of its columns."""
    target.mkdir()
    file = "data-00000-of-00001.arrow"
    features = {
        name: {"feature": {"dtype": dtype, "_type": "Value"}, "_type": "Sequence"}
        for name, dtype in (("input_ids", "int32"), ("labels", "int64"))
    }
    schema = _SCHEMA.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    with arrow.ipc.new_stream(str(target / file), schema) as sink:
        for batch in _batches(rows, schema):
            sink.write_batch(batch)
    state: dict[str, Any] = {
        "_data_files": [{"filename": file}],
        "_fingerprint": manifest.digest[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (target / "state.json").write_text(json.dumps(state, indent=2))
    (target / "dataset_info.json").write_text(json.dumps({"features": features}, indent=2))


def _batches(rows: Iterator[CachedRow], schema: Any) -> Iterator[Any]:
    ids: list[list[int]] = []
    labels: list[list[int]] = []
    for row in rows:
        ids.append(row.ids.tolist())
        labels.append(labels_of(row))
        if len(ids) == BATCH_ROWS:
            yield arrow.record_batch([arrow.array(ids, schema[0].type), arrow.array(labels, schema[1].type)], schema)
            ids, labels = [], []
    if ids:
        yield arrow.record_batch([arrow.array(ids, schema[0].type), arrow.array(labels, schema[1].type)], schema)


_WRITERS: dict[str, Callable[[Iterator[CachedRow], DatasetManifest, Path], None]] = {
    "jsonl": _write_jsonl,
    "parquet": _write_parquet,
    "hf": _write_hf,
}
