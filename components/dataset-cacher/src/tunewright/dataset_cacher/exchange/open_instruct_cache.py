"""A cache directory of open-instruct, read: a Hugging Face dataset of tokenized rows, and what stands beside it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
from numpy.typing import NDArray

from tunewright.contracts.errors import InvalidDataset, NotFound
from tunewright.dataset_cacher.preparation.shards import batches_of
from tunewright.dataset_cacher.views.batches import IGNORED, flat_list

STATE_FILE = "state.json"
CONFIG_FILE = "config.json"
STATISTICS_FILE = "dataset_statistics.json"


@dataclass(frozen=True)
class OpenInstructCache:
    """What a directory says of itself before its rows are read."""

    directory: Path
    files: tuple[Path, ...]
    """The Arrow streams with the rows, in order."""

    chat_template: str | None
    """The template's name in `config.json`."""

    max_length_tokens: int | None
    """Where `config.json` has it: the longest a row could be."""

    filtered: dict[str, int]
    """Rows that open-instruct left out, by the name of their dataset."""

    @property
    def deciding_files(self) -> tuple[Path, ...]:
        """The files whose content decides what an import gives."""
        beside = (self.directory / name for name in (CONFIG_FILE, STATISTICS_FILE))
        return (*self.files, *(path for path in beside if path.is_file()))


@dataclass(frozen=True)
class ImportedRows:
    """Some rows, one behind the other. Shape legend: R rows, T tokens, S spans."""

    first: int
    """Number of the first row in the whole dataset."""

    ids: NDArray[np.int64]
    """Shape (T,)."""

    edges: NDArray[np.int64]
    """Where rows begin in `ids`, and where the last ends. Shape (R + 1,)."""

    spans: NDArray[np.uint32]
    """Start and end of each trained range, counted within its row. Shape (S, 2)."""

    span_edges: NDArray[np.int64]
    """Where the spans of each row begin, and where those of the last end. Shape (R + 1,)."""

    datasets: tuple[str, ...]
    """The name of the dataset of each row; empty names where the column is not there."""


def open_directory(directory: Path) -> OpenInstructCache:
    """The cache in `directory`. Raises NotFound where there is none, InvalidDataset for what cannot be imported."""
    state = _read_object(directory / STATE_FILE)
    if state is None:
        hint = f"open-instruct writes it to `dataset_local_cache_dir/<hash>/`, with a {STATE_FILE}"
        raise NotFound(f"{directory}: no cache of open-instruct (it has no {STATE_FILE})", hint)
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise InvalidDataset(f"{directory}: its rows are picked by an index", "save it again after `flatten_indices()`")
    files = tuple(directory / str(one["filename"]) for one in _objects(state.get("_data_files")))
    missing = [path for path in files if path.parent != directory or not path.is_file()]
    if missing or not files:
        raise InvalidDataset(f"{directory}: not whole: {', '.join(map(str, missing)) or 'it has no data files'}")
    config = _read_object(directory / CONFIG_FILE) or {}
    statistics = _read_object(directory / STATISTICS_FILE) or {}
    return OpenInstructCache(
        directory=directory,
        files=files,
        chat_template=_template(config),
        max_length_tokens=_max_length_tokens(config),
        filtered=_filtered(statistics),
    )


def read_imported(cache: OpenInstructCache) -> Iterator[ImportedRows]:
    """Every row, in order, a record batch at a time.

    Raises InvalidDataset, naming the row, for a label that is neither -100 nor its token's id, for a negative id and
    for an attention mask that leaves a token out; and for a dataset without the columns.
    """
    first = 0
    for path in cache.files:
        with arrow.OSFile(str(path)) as source:
            try:
                reader = arrow.ipc.open_stream(source)
            except arrow.ArrowInvalid as error:
                raise InvalidDataset(f"{path}: is not an Arrow stream: {error}") from None
            _check_columns(path, reader.schema)
            for batch in reader:
                # A batch of theirs has 1,000 rows, however long they are.
                for start, end in batches_of(np.diff(batch["input_ids"].offsets.to_numpy())):
                    yield _imported_rows(path, batch.slice(start, end - start), first + start)
                first += batch.num_rows


def _read_object(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InvalidDataset(f"{path}: is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidDataset(f"{path}: must be an object")
    return document


def _template(config: dict[str, Any]) -> str | None:
    tokenizer = config.get("tokenizer_config")
    name = tokenizer.get("chat_template_name") if isinstance(tokenizer, dict) else None
    return name if isinstance(name, str) else None


def _objects(values: Any) -> list[dict[str, Any]]:
    """The objects of a list; none where it is something else."""
    return [one for one in values if isinstance(one, dict)] if isinstance(values, list) else []


def _max_length_tokens(config: dict[str, Any]) -> int | None:
    """`transform_fn_args` is a list with an object for each function."""
    arguments = [one for dataset in _objects(config.get("dataset_configs"))
                 for one in _objects(dataset.get("transform_fn_args"))]  # fmt: skip
    lengths = [one.get("max_seq_length") for one in arguments]
    return max((length for length in lengths if isinstance(length, int)), default=None)


def _filtered(statistics: dict[str, Any]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for one in _objects(statistics.get("per_dataset_stats")):
        if isinstance(count := one.get("instances_filtered"), int):
            counts[str(one.get("dataset_name"))] += count
    return counts


def _check_columns(path: Path, schema: Any) -> None:
    missing = [name for name in ("input_ids", "labels") if name not in schema.names]
    if missing:
        there = ", ".join(schema.names)
        raise InvalidDataset(f"{path}: has no column {' and '.join(missing)}; there are: {there}",
                             "is it a dataset for supervised fine-tuning?")  # fmt: skip
    for name in ("input_ids", "labels"):
        column_type = schema.field(name).type
        is_list = arrow.types.is_list(column_type) or arrow.types.is_large_list(column_type)
        if not is_list or not arrow.types.is_integer(column_type.value_type):
            raise InvalidDataset(f"{path}: the column `{name}` must have lists of integers, has {column_type}")


def _imported_rows(path: Path, batch: Any, first: int) -> ImportedRows:
    for name in ("input_ids", "labels"):
        if batch[name].null_count or batch[name].values.null_count:
            raise InvalidDataset(f"{path}: the column `{name}` has empty places")
    ids, edges = flat_list(batch["input_ids"])
    labels, label_edges = flat_list(batch["labels"])
    lengths = np.diff(edges)
    _refuse(path, first, np.flatnonzero(lengths != np.diff(label_edges)), "has another number of labels than of tokens")
    ids, labels = ids.astype(np.int64), labels.astype(np.int64)
    trained = labels != IGNORED
    _refuse_tokens(path, first, edges, trained & (labels != ids), "has a label that is neither -100 nor its token's id")
    _refuse_tokens(path, first, edges, ids < 0, "has a negative token id")
    if "attention_mask" in batch.schema.names:
        _check_mask(path, first, edges, batch["attention_mask"])
    spans, span_edges = _spans(trained, edges)
    return ImportedRows(first, ids, edges, spans, span_edges, _datasets(batch))


def _check_mask(path: Path, first: int, edges: NDArray[np.int64], column: Any) -> None:
    mask, mask_edges = flat_list(column)
    _refuse(
        path, first, np.flatnonzero(np.diff(edges) != np.diff(mask_edges)), "has an attention mask of another length"
    )
    _refuse_tokens(path, first, edges, mask != 1, "has an attention mask that leaves a token out")


def _datasets(batch: Any) -> tuple[str, ...]:
    names: list[str | None] = [""] * batch.num_rows
    if "dataset_source" in batch.schema.names:
        names = batch["dataset_source"].to_pylist()
    return tuple(name or "" for name in names)


def _spans(trained: NDArray[np.bool_], edges: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Runs of trained tokens that end where their row ends, counted within it; and where those of each row begin."""
    begins, ends = trained.copy(), trained.copy()
    begins[1:] &= ~trained[:-1]
    ends[:-1] &= ~trained[1:]
    inner = edges[1:-1]
    inner = inner[(inner > 0) & (inner < len(trained))]
    begins[inner] = trained[inner]
    ends[inner - 1] = trained[inner - 1]
    starts = np.flatnonzero(begins)
    span_edges = np.searchsorted(starts, edges)
    offsets = np.repeat(edges[:-1], np.diff(span_edges))
    spans = np.stack([starts - offsets, np.flatnonzero(ends) + 1 - offsets], axis=1)
    return spans.astype(np.uint32), span_edges


def _refuse_tokens(path: Path, first: int, edges: NDArray[np.int64], bad: NDArray[np.bool_], what: str) -> None:
    if bad.any():
        _refuse(path, first, np.searchsorted(edges, np.flatnonzero(bad)[:1], side="right") - 1, what)


def _refuse(path: Path, first: int, rows: NDArray[Any], what: str) -> None:
    if len(rows):
        raise InvalidDataset(f"{path}: row {first + int(rows[0])} {what}", "nothing was imported")
