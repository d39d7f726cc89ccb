"""A cache in the formats of others: jsonl, parquet, what `datasets.load_from_disk` opens, OLMo-core's memory maps."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as arrow
from pyarrow import parquet

from tunewright.contracts.datasets import DatasetManifest
from tunewright.contracts.errors import UsageError
from tunewright.contracts.files import json_text, sync_directory
from tunewright.dataset_cacher.preparation.shards import CachedRow
from tunewright.dataset_cacher.views.batches import IGNORED, FlatRows, read_batches

_SCHEMA = arrow.schema([("input_ids", arrow.list_(arrow.int32())), ("labels", arrow.list_(arrow.int64()))])

HF_FILE_TOKENS = 1 << 25
"""Tokens after which a file of a Hugging Face dataset ends: 400 MB, below the 500 MB at which `datasets` cuts."""


@dataclass(frozen=True)
class Export:
    """What is to be written."""

    cache: Path
    manifest: DatasetManifest
    chunk_bytes: int
    """Bytes of token ids in each file of `olmo`."""

    def batches(self) -> Iterator[FlatRows]:
        """All rows, in the cache's order."""
        return read_batches(self.cache, self.manifest)


def export_cache(
    cache: Path, manifest: DatasetManifest, export_format: str, target: Path, chunk_bytes: int = 1 << 30
) -> None:
    """Write the rows of the cache, in its order, to `target`, which appears once it is whole.

    Raises UsageError for a target that cannot be written: a directory that is there already, a missing parent.
    """
    if not target.parent.is_dir():
        raise UsageError(f"--to {target}: there is no directory {target.parent}")
    if target.is_dir():
        raise UsageError(f"--to {target}: is a directory that exists", "give a name that is not taken")
    if export_format == "olmo" and manifest.sequences_per_example > 1:
        words = f"--format olmo: {manifest.digest[:12]} holds preference pairs, which OLMo-core's memory maps cannot"
        raise UsageError(words, "jsonl, parquet and hf keep them: of each pair the chosen row, then the rejected one")
    write, is_directory = _writers()[export_format]
    if is_directory and target.exists():
        raise UsageError(f"--to {target}: is a file that exists", "give a name that is not taken")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        write(Export(cache, manifest, chunk_bytes), temporary)
        _sync(temporary)
        temporary.replace(target)
        sync_directory(target.parent)
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


def _sync(path: Path) -> None:
    for file in path.iterdir() if path.is_dir() else [path]:
        if file.is_dir():
            _sync(file)
            continue
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_jsonl(export: Export, target: Path) -> None:
    with target.open("wb") as file:
        for batch in export.batches():
            labels, edges = batch.labels(), batch.edges.tolist()
            for start, end in zip(edges, edges[1:], strict=False):
                row = {"input_ids": batch.ids[start:end], "labels": labels[start:end]}
                file.write(orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE))


def _write_parquet(export: Export, target: Path) -> None:
    with parquet.ParquetWriter(str(target), _SCHEMA) as sink:
        for batch in export.batches():
            sink.write_batch(_record_batch(batch, _SCHEMA))


def _write_hf(export: Export, target: Path) -> None:
    """What `Dataset.save_to_disk` writes: Arrow streams, the list of them, the types of the columns."""
    target.mkdir()
    features = {
        name: {"feature": {"dtype": dtype, "_type": "Value"}, "_type": "Sequence"}
        for name, dtype in (("input_ids", "int32"), ("labels", "int64"))
    }
    schema = _SCHEMA.with_metadata({"huggingface": orjson.dumps({"info": {"features": features}})})
    files = _write_streams(export, target, schema)
    state: dict[str, Any] = {
        "_data_files": [{"filename": file} for file in files],
        "_fingerprint": export.manifest.digest[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (target / "state.json").write_text(json_text(state))
    (target / "dataset_info.json").write_text(json_text({"features": features}))


def _write_streams(export: Export, target: Path, schema: Any) -> list[str]:
    """Arrow streams of some tokens each. Their names tell how many there are, so they get them at the end."""
    parts: list[Path] = []
    sink, tokens = None, 0
    try:
        for batch in export.batches():
            if sink is None:
                parts.append(target / f"part-{len(parts)}")
                sink, tokens = arrow.ipc.new_stream(str(parts[-1]), schema), 0
            sink.write_batch(_record_batch(batch, schema))
            tokens += len(batch.ids)
            if tokens >= HF_FILE_TOKENS:
                sink.close()
                sink = None
    finally:
        if sink is not None:
            sink.close()
    names = [f"data-{number:05d}-of-{len(parts):05d}.arrow" for number in range(len(parts))]
    for part, name in zip(parts, names, strict=True):
        part.rename(target / name)
    return names


def _record_batch(batch: FlatRows, schema: Any) -> Any:
    offsets = arrow.array(batch.edges, arrow.int32())
    columns = [
        arrow.ListArray.from_arrays(offsets, arrow.array(values.astype(name), name))
        for values, name in ((batch.ids, "int32"), (batch.labels(), "int64"))
    ]
    return arrow.record_batch(columns, schema)


def _write_olmo(export: Export, target: Path) -> None:
    from tunewright.dataset_cacher.exchange.olmo import write_olmo

    write_olmo(export.cache, export.manifest, export.batches(), target, export.chunk_bytes)


def _writers() -> dict[str, tuple[Callable[[Export, Path], None], bool]]:
    """Each format's writer, and whether it makes a directory."""
    return {
        "jsonl": (_write_jsonl, False),
        "parquet": (_write_parquet, False),
        "hf": (_write_hf, True),
        "olmo": (_write_olmo, True),
    }
