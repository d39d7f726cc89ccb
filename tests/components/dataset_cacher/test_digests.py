"""What is remembered of files that were read: by what shows that they have not changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tunewright.dataset_cacher.reading import digests
from tunewright.dataset_cacher.reading.digests import DigestMemory
from tunewright.dataset_cacher.reading.readers import Scan, scan_file
from tunewright.dataset_cacher.reading.sources import SourceFile


@pytest.fixture
def file(tmp_path: Path) -> SourceFile:
    """A file that was written long ago, as far as its inode's time can be told."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' * 5)
    return SourceFile(str(path), "rows.jsonl", "jsonl")


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is read, in order. Files count as settled at once."""
    read: list[str] = []

    def scan(file: SourceFile) -> Scan:
        read.append(file.shown)
        return scan_file(file)

    monkeypatch.setattr(digests, "scan_file", scan)
    monkeypatch.setattr(digests, "_SETTLED_NANOSECONDS", -(10**12))
    return read


def saved(root: Path, look: Callable[[DigestMemory], object]) -> None:
    memory = DigestMemory(root)
    look(memory)
    memory.save()


def test_a_file_is_read_once_for_digest_and_scan(file: SourceFile, scanned: list[str], tmp_path: Path) -> None:
    root = tmp_path / "memory"
    memory = DigestMemory(root)
    assert memory.sha256_of(file) == memory.scan_of(file).sha256
    memory.save()
    again = DigestMemory(root)
    assert again.scan_of(file) == memory.scan_of(file) and again.sha256_of(file) == memory.sha256_of(file)
    assert scanned == ["rows.jsonl"]
    assert DigestMemory(root, is_trusted=False).scan_of(file) == memory.scan_of(file)
    assert scanned == ["rows.jsonl"] * 2


def test_a_file_with_another_time_or_size_is_read_again(file: SourceFile, scanned: list[str], tmp_path: Path) -> None:
    saved(tmp_path, lambda memory: memory.scan_of(file))
    os.utime(file.path, ns=(1, 1))
    saved(tmp_path, lambda memory: memory.scan_of(file))
    file.path.write_bytes(b'{"a": 1}\n')
    assert DigestMemory(tmp_path).scan_of(file).num_rows == 1
    assert len(scanned) == 3


def test_a_damaged_or_lost_memory_only_costs_reading(file: SourceFile, scanned: list[str], tmp_path: Path) -> None:
    saved(tmp_path, lambda memory: memory.scan_of(file))
    expected = scan_file(file)
    for kept in (tmp_path / ".source-scans").iterdir():
        kept.write_bytes(b'{"num_rows": 5, "parts": [[1')
    assert DigestMemory(tmp_path).scan_of(file) == expected
    (tmp_path / ".source-digests.json").write_text('{"a": 3}')
    assert DigestMemory(tmp_path).scan_of(file) == expected
    assert len(scanned) == 3


def test_what_a_killed_writer_left_is_removed_by_the_next(file: SourceFile, scanned: list[str], tmp_path: Path) -> None:
    left = tmp_path / "..source-digests.json.26247.b580b2db.tmp"
    another = tmp_path / ".something-else.26247.b580b2db.tmp"
    for path in (left, another):
        path.write_text("{")
    saved(tmp_path, lambda memory: memory.scan_of(file))
    assert not left.exists() and another.exists()
    assert DigestMemory(tmp_path).sha256_of(file) == scan_file(file).sha256 and scanned == ["rows.jsonl"]


def test_many_files_are_told_apart_in_their_order(scanned: list[str], tmp_path: Path) -> None:
    files = []
    for number in range(20):
        path = tmp_path / f"{number}.jsonl"
        path.write_bytes(b'{"a": %d}\n' % number)
        files.append(SourceFile(str(path), path.name, "jsonl"))
    memory = DigestMemory(tmp_path)
    known = memory.identify(files)
    assert [sha256 for _, sha256 in known] == [scan_file(one).sha256 for one in files]
    assert sorted(scanned) == sorted(one.shown for one in files)
    assert memory.identify(files) == known and len(scanned) == 20


def test_a_file_that_was_just_written_is_not_remembered(file: SourceFile, tmp_path: Path) -> None:
    assert time.time_ns() - file.path.stat().st_mtime_ns < digests._SETTLED_NANOSECONDS
    saved(tmp_path, lambda memory: memory.sha256_of(file))
    assert not (tmp_path / ".source-digests.json").exists()
