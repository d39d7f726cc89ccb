"""Whole or not at all: killed preparers, two at once, damaged files."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from components.dataset_cacher.workbench import Workbench, bytes_below, conversation, visible_below
from tunewright.contracts.datasets import MANIFEST_FILE
from tunewright.contracts.errors import CacheCorrupted, InvalidExperiment
from tunewright.dataset_cacher.preparation import shards
from tunewright.dataset_cacher.reading import digests
from tunewright.dataset_cacher.reading.readers import Scan, scan_file
from tunewright.dataset_cacher.reading.sources import SourceFile
from tunewright.dataset_cacher.storage.store import CacheStore


def test_a_second_request_is_a_hit_and_writes_nothing(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("a", "b")])
    first = bench.provide({"source": "rows.jsonl"})
    before = bytes_below(bench.cache_root)
    second = bench.provide({"source": "rows.jsonl"})
    assert (first.is_hit, second.is_hit) == (False, True)
    assert second.dataset == first.dataset
    assert bytes_below(bench.cache_root) == before


def test_who_comes_second_says_so_and_waits(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("a", "b")])
    bench.experiment(['source = "rows.jsonl"'])
    digest = bench.run("key", "experiment.toml").stdout.strip()
    with CacheStore.at(bench.cache_root).lock(digest, on_wait=print):
        process = bench.start("prepare", "experiment.toml", "--json")
        assert process.stderr is not None
        told = process.stderr.readline()
        assert f"another process prepares it (host {socket.gethostname()}, process {os.getpid()}, since " in told
        assert process.poll() is None
    assert json.loads(process.communicate(timeout=50)[0])["digest"] == digest


def test_a_directory_without_a_manifest_is_no_cache(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("a", "b")])
    first = bench.provide({"source": "rows.jsonl"})
    path = Path(first.dataset.path)
    whole = bytes_below(path)
    (path / MANIFEST_FILE).unlink()
    (path / "packing.arrow").write_bytes(b"half")
    again = bench.provide({"source": "rows.jsonl"})
    assert again.is_hit is False and bytes_below(path) == whole


def test_a_cache_with_a_missing_or_shortened_file_is_refused(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("a", "b")])
    shard = Path(bench.provide({"source": "rows.jsonl"}).dataset.path) / "tokens-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CacheCorrupted, match=r"tokens-00000.arrow: has \d+ bytes, must have"):
        bench.provide({"source": "rows.jsonl"})
    shard.unlink()
    with pytest.raises(CacheCorrupted, match=r"tokens-00000.arrow: is missing"):
        bench.provide({"source": "rows.jsonl"})


def test_a_failure_leaves_nothing_in_the_cache(bench: Workbench) -> None:
    bench.write("rows.jsonl", [*[conversation("a", "b")] * 2000, {"text": "x"}])
    experiment = bench.experiment(['source = "rows.jsonl"'])
    result = bench.run("prepare", str(experiment), expect=78)
    assert "rows.jsonl:2001" in result.stderr
    assert visible_below(bench.cache_root) == []


def test_a_source_that_changes_while_it_is_read_is_refused(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bench.write("rows.jsonl", [conversation("a", "b")])

    def scan_and_change(file: SourceFile) -> Scan:
        scan = scan_file(file)
        path.write_text(json.dumps(conversation("a", "another")) + "\n")
        return scan

    monkeypatch.setattr(digests, "scan_file", scan_and_change)
    with pytest.raises(InvalidExperiment, match=r"rows.jsonl: changed while it was read"):
        bench.provide({"source": "rows.jsonl"})
    assert visible_below(bench.cache_root) == []


def test_shards_and_batches_end_where_they_should(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write("rows.jsonl", [conversation("a" * 50, f"answer {number}") for number in range(40)])
    one = bench.rows(bench.provide({"source": "rows.jsonl"}))
    monkeypatch.setattr(shards, "BATCH_TOKENS", 200)
    monkeypatch.setattr(shards, "SHARD_TOKENS", 600)
    other = Workbench(bench.project, bench.model, bench.cache_root.with_name("small-shards"))
    provided = other.provide({"source": "rows.jsonl"})
    manifest = other.manifest(provided)
    assert len(manifest.shards) > 2 and sum(shard.rows for shard in manifest.shards) == 40
    assert sum(shard.tokens for shard in manifest.shards) == manifest.tokens
    assert sum(shard.trained_tokens for shard in manifest.shards) == manifest.trained_tokens
    assert other.rows(provided) == one
    cache = Path(provided.dataset.path)
    assert [shards.read_row(cache, manifest, row).row for row in (0, 13, 39)] == [0, 13, 39]
