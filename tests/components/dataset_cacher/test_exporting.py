"""Exports, read back by what others read them with."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from components.dataset_cacher.workbench import Workbench, bytes_below
from components.dataset_cacher.written_caches import WrittenCache, write_cache
from tunewright.contracts.errors import UsageError
from tunewright.dataset_cacher.exchange import exporting
from tunewright.dataset_cacher.exchange.exporting import export_cache
from tunewright.dataset_cacher.preparation import shards
from tunewright.dataset_cacher.preparation.shards import CachedRow
from tunewright.dataset_cacher.views.batches import read_batches


def random_rows(number: int, seed: int = 3, longest: int = 40) -> list[CachedRow]:
    """Rows with spans at their edges, beside each other, and all over."""
    generator = np.random.default_rng(seed)
    rows = []
    for row in range(number):
        length = int(generator.integers(2, longest))
        borders = np.sort(
            generator.choice(length + 1, size=2 * int(generator.integers(1, 1 + length // 2)), replace=False)
        )
        ids = generator.integers(0, 340, length).astype(np.uint16)
        rows.append(CachedRow(ids, borders.astype(np.uint32), row % 2, row // 2))
    return rows


@pytest.fixture
def written(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> WrittenCache:
    """A cache of several shards, each of several record batches."""
    monkeypatch.setattr(shards, "BATCH_TOKENS", 200)
    monkeypatch.setattr(shards, "SHARD_TOKENS", 600)
    cache = write_cache(bench, random_rows(90))
    assert len(cache.manifest.shards) > 2
    return cache


def export(written: WrittenCache, export_format: str, target: Path, **options: Any) -> Path:
    export_cache(written.path, written.manifest, export_format, target, **options)
    assert not [path for path in target.parent.iterdir() if path.name.endswith(".tmp")]
    return target


@given(st.integers(0, 10_000))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_labels_and_masks_of_a_batch_are_those_of_its_rows(bench: Workbench, seed: int) -> None:
    cache = write_cache(Workbench(bench.project, bench.model, bench.cache_root / str(seed)), random_rows(7, seed))
    (batch,) = read_batches(cache.path, cache.manifest)
    edges, labels = batch.edges.tolist(), batch.labels().tolist()
    assert [labels[start:end] for start, end in zip(edges, edges[1:], strict=False)] == [
        row["labels"] for row in cache.expected()
    ]
    assert [label != -100 for label in labels] == batch.trained.tolist()


def test_jsonl_has_an_object_a_row(written: WrittenCache, tmp_path: Path) -> None:
    lines = export(written, "jsonl", tmp_path / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == written.expected()
    assert lines[0].startswith('{"input_ids":[')


def test_parquet_has_a_row_a_row(written: WrittenCache, tmp_path: Path) -> None:
    table = parquet.read_table(export(written, "parquet", tmp_path / "rows.parquet"))
    assert table.to_pylist() == written.expected()
    assert {str(field.type) for field in table.schema} == {"list<element: int32>", "list<element: int64>"}


def test_datasets_opens_what_hf_writes(written: WrittenCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "HF_FILE_TOKENS", 500)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    directory = export(written, "hf", tmp_path / "hf")
    assert len(list(directory.glob("data-*-of-*.arrow"))) > 2
    opened = datasets.load_from_disk(str(directory))
    assert opened.to_list() == written.expected()
    assert opened.features["input_ids"].feature.dtype == "int32" and opened.features["labels"].feature.dtype == "int64"
    assert opened.filter(lambda row: len(row["labels"]) > 5).num_rows < opened.num_rows


def read_as_olmo_core_does(directory: Path, id_type: str) -> list[dict[str, list[int]]]:
    """The documents that the csv names, cut out of the bytes of ids and mask."""
    documents = []
    for path in sorted(directory.glob("token_ids_part_*.npy")):
        ids = np.frombuffer(path.read_bytes(), dtype=id_type)
        mask = np.frombuffer((directory / path.name.replace("token_ids", "labels_mask")).read_bytes(), dtype=np.bool_)
        assert len(ids) == len(mask) and set(np.unique(mask.view(np.uint8))) <= {0, 1}
        with gzip.open(path.with_suffix(".csv.gz"), "rt") as file:
            borders = [tuple(map(int, line.split(","))) for line in file]
        for start, end in borders:
            labels = np.where(mask[start:end], ids[start:end].astype(np.int64), -100)
            documents.append({"input_ids": ids[start:end].tolist(), "labels": labels.tolist()})
    return documents


@pytest.mark.parametrize("id_type", ["uint16", "uint32"])
def test_olmo_core_reads_the_arrays(bench: Workbench, tmp_path: Path, id_type: str) -> None:
    rows = [CachedRow(row.ids.astype(id_type), row.spans, row.source, row.row) for row in random_rows(60)]
    written = write_cache(bench, rows, id_type)
    directory = export(written, "olmo", tmp_path / "olmo")
    assert read_as_olmo_core_does(directory, id_type) == written.expected()
    assert sorted(path.name for path in directory.iterdir()) == [
        "dataset_statistics.json", "dataset_statistics.txt", "labels_mask_part_0000.npy", "token_ids_part_0000.csv.gz",
        "token_ids_part_0000.npy", "tokenizer",
    ]  # fmt: skip
    overall = json.loads((directory / "dataset_statistics.json").read_text())["overall_statistics"]
    assert (overall["total_instances"], overall["total_tokens"]) == (60, written.manifest.tokens)
    assert overall["trainable_percentage"] == 100 * written.manifest.trained_tokens / written.manifest.tokens
    assert f"- total_tokens: {written.manifest.tokens}" in (directory / "dataset_statistics.txt").read_text()
    config = json.loads((directory / "tokenizer" / "tokenizer_config.json").read_text())
    assert config["eos_token"] == "</s>" and "generation" in config["chat_template"]


def test_parts_of_olmo_are_cut_where_they_are_full(written: WrittenCache, tmp_path: Path) -> None:
    chunk_tokens = 333
    directory = export(written, "olmo", tmp_path / "olmo", chunk_bytes=2 * chunk_tokens)
    parts = [np.memmap(path, mode="r", dtype=np.uint16) for path in sorted(directory.glob("token_ids_part_*.npy"))]
    assert {len(part) for part in parts[:-1]} == {chunk_tokens} and len(parts) > 3
    assert np.concatenate(parts).tolist() == [one for row in written.expected() for one in row["input_ids"]]
    # Every part names what it has of each document: those over a border are in both parts, as open-instruct does.
    edges = np.cumsum([0, *(len(row.ids) for row in written.rows)])
    for number, part in enumerate(parts):
        first = number * chunk_tokens
        with gzip.open(directory / f"token_ids_part_{number:04d}.csv.gz", "rt") as file:
            lines = file.read().splitlines()
        pairs = [
            (max(0, start - first), min(len(part), end - first))
            for start, end in zip(edges.tolist(), edges[1:].tolist(), strict=False)
            if end > first and start < first + len(part)
        ]
        assert lines == [f"{start},{end}" for start, end in pairs]


@pytest.mark.parametrize("export_format", ["jsonl", "parquet", "hf", "olmo"])
def test_an_export_is_the_same_twice_and_never_half_there(
    written: WrittenCache, tmp_path: Path, export_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        export(written, export_format, tmp_path / name / "target")
    assert bytes_below(tmp_path / "one") == bytes_below(tmp_path / "two")
    target = tmp_path / "target"
    (written.path / written.manifest.shards[-1].file).unlink()
    with pytest.raises(FileNotFoundError):
        export_cache(written.path, written.manifest, export_format, target)
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("one", "two", "home", "project")] == []


def test_what_cannot_be_written_is_refused(written: WrittenCache, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "file").touch()
    for target, words in (
        ("there", "exists"),
        ("no/where", "there is no directory"),
        ("file", "is a file that exists"),
    ):
        with pytest.raises(UsageError, match=words):
            export_cache(written.path, written.manifest, "hf", tmp_path / target)


@pytest.mark.parametrize("export_format", ["jsonl", "parquet", "hf", "olmo"])
def test_memory_does_not_grow_with_the_number_of_rows(
    bench: Workbench, tmp_path: Path, export_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "BATCH_TOKENS", 20_000)
    peaks = []
    for number, times in enumerate((1, 1, 6)):  # the first one imports
        cache_root = bench.cache_root / str(number)
        written = write_cache(Workbench(bench.project, bench.model, cache_root), wide_rows(100 * times))
        tracemalloc.start()
        export(written, export_format, tmp_path / str(number))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.3 * peaks[1]


def wide_rows(number: int) -> list[CachedRow]:
    ids = (np.arange(500) % 340).astype(np.uint16)
    return [CachedRow(ids, np.asarray([5, 300], np.uint32), row % 2, row // 2) for row in range(number)]
