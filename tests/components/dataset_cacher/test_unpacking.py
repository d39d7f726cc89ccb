"""Large compressed files are decompressed once, and then read in parts as plain ones are."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from components.dataset_cacher.workbench import Workbench, bytes_below, conversation
from tunewright.contracts.errors import InvalidDataset
from tunewright.contracts.plugins import PluginHost
from tunewright.dataset_cacher.inputs import Inputs, find_inputs
from tunewright.dataset_cacher.reading import lines, unpacking
from tunewright.dataset_cacher.reading.digests import DigestMemory
from tunewright.dataset_cacher.reading.readers import place_of, read_part, scan_file


@pytest.fixture
def packed(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    """A compressed source that counts as large."""
    monkeypatch.setattr(unpacking, "LARGE_BYTES", 10)
    monkeypatch.setattr(lines, "PART_BYTES", 500)
    plain = bench.write("rows.jsonl", [conversation("a", f"answer {number}") for number in range(40)])
    (bench.project / "rows.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    return bench


def inputs_of(bench: Workbench) -> Inputs:
    request = bench.request({"source": "rows.jsonl.gz"})
    return find_inputs(request, PluginHost.discover(), DigestMemory(bench.cache_root))


def test_a_large_compressed_file_has_parts_and_is_named_as_before(packed: Workbench, tmp_path: Path) -> None:
    inputs = inputs_of(packed)
    unpacked = unpacking.with_unpacked_files(inputs, tmp_path)
    file, source = unpacked.sources[0].files[0], unpacked.sources[0]
    assert len(scan_file(file).parts) > 5
    rows = [row for part in scan_file(file).parts for _, row in read_part(file, part)]
    assert rows == [conversation("a", f"answer {number}") for number in range(40)]
    assert place_of(file, 3) == "rows.jsonl.gz:3"
    assert source.sha256s == inputs.sources[0].sha256s and unpacked.digest == inputs.digest
    before = file.path.stat().st_mtime_ns
    assert unpacking.with_unpacked_files(inputs, tmp_path).sources[0].files == source.files
    assert file.path.stat().st_mtime_ns == before  # found, not made again


def test_the_cache_is_the_same_and_nothing_of_it_stays(packed: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    first = packed.provide({"source": "rows.jsonl.gz"})
    monkeypatch.setattr(unpacking, "LARGE_BYTES", 1 << 30)
    other = Workbench(packed.project, packed.model, packed.cache_root.with_name("other"))
    second = other.provide({"source": "rows.jsonl.gz"})
    files = [bytes_below(Path(one.dataset.path)) for one in (first, second)]
    for one in files:
        one.pop("manifest.json")  # which counts what was compared with the reference, part by part
    assert files[0] == files[1] and first.dataset.digest == second.dataset.digest
    assert list(packed.cache_root.rglob("unpacked")) == []


def test_a_file_that_is_another_by_now_is_refused(packed: Workbench, tmp_path: Path) -> None:
    inputs = inputs_of(packed)
    source = replace(inputs.sources[0], sha256s=("0" * 64,))
    with pytest.raises(InvalidDataset, match=r"rows.jsonl.gz: changed while it was read"):
        unpacking.with_unpacked_files(replace(inputs, sources=(source,)), tmp_path)
