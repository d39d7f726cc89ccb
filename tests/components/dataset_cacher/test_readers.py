"""Files to rows: one read tells digest, rows and parts, and the parts together are the file."""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import json
import lzma
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tunewright.contracts.errors import InvalidDataset
from tunewright.dataset_cacher.reading import lines, readers, scans, tables
from tunewright.dataset_cacher.reading.readers import BadRow, place_of, read_part, scan_file
from tunewright.dataset_cacher.reading.sources import SourceFile, kind_of

ROWS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": f"é {number}"}, {"role": "assistant", "content": "x" * number}]}
    for number in range(40)
]

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def source(path: Path) -> SourceFile:
    found = kind_of(path.name)
    assert found is not None
    return SourceFile(str(path), path.name, *found)


def written(path: Path, content: bytes) -> SourceFile:
    path.write_bytes(content)
    return source(path)


def as_jsonl(rows: Sequence[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_csv(rows: Sequence[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows({name: json.dumps(value) for name, value in row.items()} for row in rows)
    return text.getvalue().encode()


def read(file: SourceFile) -> list[Any]:
    """All rows by all parts, after checking that the parts say of themselves what is true."""
    rows: list[Any] = []
    scan, row = scan_file(file), 0
    assert scan.sha256 == hashlib.sha256(file.path.read_bytes()).hexdigest()
    for part in scan.parts:
        content = [one for _, one in read_part(file, part)]
        assert (part.first_row, part.num_rows) == (row, len(content)) and content
        rows, row = rows + content, row + len(content)
    assert scan.num_rows == len(rows)
    return rows


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """Parts of 300 bytes, so that a small file has many."""
    for module in (scans, lines, tables):
        monkeypatch.setattr(module, "PART_BYTES", 300)
    return 300


def test_a_jsonl_file_is_cut_at_lines_and_its_parts_are_the_file(small_parts: int, tmp_path: Path) -> None:
    file = written(tmp_path / "rows.jsonl", as_jsonl(ROWS))
    parts = scan_file(file).parts
    assert read(file) == ROWS and len(parts) > 5
    assert [part.start for part in parts[1:]] == [part.end for part in parts[:-1]]
    assert all(part.end - part.start <= small_parts for part in parts)


PIECES = st.sampled_from(
    [b'{"a": 1}', b"", b" ", b"\t\r", b"bad", b"[1]", b' {"b": 2}\r', b'{"c": "' + b"x" * 90 + b'"}']
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(pieces=st.lists(PIECES, max_size=12), ends=st.booleans(), part_bytes=st.sampled_from([7, 16, 100]))
def test_blank_lines_are_no_rows_and_others_keep_their_line_numbers(
    pieces: list[bytes], ends: bool, part_bytes: int, tmp_path: Path
) -> None:
    content = b"\n".join(pieces) + (b"\n" if ends else b"")
    expected = [number for number, line in enumerate(content.split(b"\n"), 1) if line.strip()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "PART_BYTES", part_bytes)
        for file in (
            written(tmp_path / "rows.jsonl", content),
            written(tmp_path / "rows.jsonl.gz", gzip.compress(content)),
        ):
            scan = scan_file(file)
            assert [number for part in scan.parts for number, _ in read_part(file, part)] == expected
            assert scan.num_rows == len(expected)


def test_what_is_no_row_says_why_and_where(tmp_path: Path) -> None:
    file = written(tmp_path / "rows.jsonl", b'\xef\xbb\xbf{"a": 1}\n\n{"a": }\n[1, 2]\n"text"\n{"a": 2}\n')
    rows = [(place_of(file, number), row) for part in scan_file(file).parts for number, row in read_part(file, part)]
    assert [place for place, _ in rows] == [f"rows.jsonl:{number}" for number in (1, 3, 4, 5, 6)]
    assert rows[0][1] == {"a": 1} and rows[-1][1] == {"a": 2}
    assert "is not JSON" in str(rows[1][1]) and str(rows[2][1]) == "must be an object, got [1,2]"
    assert all(isinstance(row, BadRow) for _, row in rows[1:4])


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_compressed_file_has_the_rows_of_the_plain_one(name: str, suffix: str, tmp_path: Path) -> None:
    content = {"rows.jsonl": as_jsonl(ROWS), "rows.json": json.dumps(ROWS).encode(), "rows.csv": as_csv(ROWS)}[name]
    plain = written(tmp_path / name, content)
    # Two streams one behind another, as `cat a.gz b.gz` and parallel compressors make them.
    middle = len(content) // 2
    packed = b"".join(COMPRESSORS[suffix](half) for half in (content[:middle], content[middle:]))
    file = written(tmp_path / f"{name}{suffix}", packed)
    assert read(file) == read(plain)
    assert [row["messages"] if name != "rows.csv" else json.loads(row["messages"]) for row in read(file)] == [
        row["messages"] for row in ROWS
    ]


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_compressed_file_that_was_cut_off_is_refused_by_name(suffix: str, tmp_path: Path) -> None:
    packed = COMPRESSORS[suffix](as_jsonl(ROWS * 20))
    cut = written(tmp_path / f"cut.jsonl{suffix}", packed[: len(packed) // 2])
    with pytest.raises(InvalidDataset, match=rf"cut.jsonl{suffix}: cannot be read as jsonl"):
        scan_file(cut)
    other = written(tmp_path / f"other.jsonl{suffix}", b"not compressed at all, whatever the name says")
    with pytest.raises(InvalidDataset, match=rf"other.jsonl{suffix}: cannot be read as jsonl"):
        scan_file(other)


def test_a_parquet_file_has_its_row_groups_as_parts(small_parts: int, tmp_path: Path) -> None:
    parquet.write_table(arrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet", row_group_size=20)
    file = source(tmp_path / "rows.parquet")
    assert read(file) == ROWS
    parts = scan_file(file).parts
    assert [(part.start, part.end) for part in parts] == [(0, 1), (1, 2)]
    assert [number for number, _ in read_part(file, parts[1])] == list(range(21, 41))
    assert place_of(file, 21) == "rows.parquet: row 21"


def write_arrow(path: Path, rows: Sequence[Any], is_stream: bool, compression: str | None = None) -> SourceFile:
    table = arrow.Table.from_pylist(list(rows))
    make = arrow.ipc.new_stream if is_stream else arrow.ipc.new_file
    with make(str(path), table.schema, options=arrow.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table, max_chunksize=9)
    return source(path)


@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("is_stream", [True, False])
def test_an_arrow_file_has_its_record_batches_as_parts(
    is_stream: bool, compression: str | None, small_parts: int, tmp_path: Path
) -> None:
    file = write_arrow(tmp_path / "rows.arrow", ROWS, is_stream, compression)
    assert read(file) == ROWS
    parts = scan_file(file).parts
    assert [part.num_rows for part in parts] == [9, 9, 9, 9, 4]
    # In another order than they lie there: each can be read without those before it.
    assert [row for part in reversed(parts) for _, row in read_part(file, part)][:4] == ROWS[36:]
    assert place_of(file, 10) == "rows.arrow: row 10"


def test_an_arrow_stream_with_dictionaries_is_one_part(small_parts: int, tmp_path: Path) -> None:
    table = arrow.table({"language": arrow.array(["de", "en", "de"] * 100).dictionary_encode()})
    with arrow.ipc.new_stream(str(tmp_path / "rows.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    file = source(tmp_path / "rows.arrow")
    assert [(part.num_rows, part.start, part.end) for part in scan_file(file).parts] == [(300, 0, 0)]
    assert [row["language"] for row in read(file)] == ["de", "en", "de"] * 100


@pytest.mark.parametrize("name", ["rows.arrow", "rows.parquet", "rows.json", "rows.jsonl.gz"])
def test_an_empty_file_of_a_kind_that_has_a_head_is_refused(name: str, tmp_path: Path) -> None:
    file = written(tmp_path / name, b"")
    if name == "rows.jsonl.gz":  # gzip reads nothing from nothing
        assert scan_file(file).num_rows == 0
        return
    with pytest.raises(InvalidDataset, match=name):
        scan_file(file)


def test_files_without_rows_have_no_parts(tmp_path: Path) -> None:
    contents = {"rows.jsonl": b"\n \n", "rows.json": b"[]", "rows.csv": b"messages\n", "none.jsonl": b""}
    for name, content in contents.items():
        scan = scan_file(written(tmp_path / name, content))
        assert (scan.num_rows, scan.parts) == (0, ()), name
    write_arrow(tmp_path / "rows.arrow", ROWS[:1], is_stream=True)
    schema = arrow.schema([("messages", arrow.string())])
    with arrow.ipc.new_stream(str(tmp_path / "rows.arrow"), schema):
        pass
    assert scan_file(source(tmp_path / "rows.arrow")).parts == ()


def test_damaged_tables_are_refused_by_name(tmp_path: Path) -> None:
    file = write_arrow(tmp_path / "rows.arrow", ROWS * 30, is_stream=True)
    file.path.write_bytes(file.path.read_bytes()[:5000])
    with pytest.raises(InvalidDataset, match=r"rows.arrow: cannot be read as arrow"):
        scan_file(file)
    with pytest.raises(InvalidDataset, match=r"rows.parquet: cannot be read as parquet"):
        scan_file(written(tmp_path / "rows.parquet", b"PAR1 and no more"))


def test_csv_rows_are_named_by_the_line_they_start_in(tmp_path: Path) -> None:
    file = written(tmp_path / "rows.csv", b'question,answer\n"a\nb",c\nd,e,f\ng,h\n')
    numbered = [one for part in scan_file(file).parts for one in read_part(file, part)]
    assert [number for number, _ in numbered] == [2, 4, 5]
    assert numbered[0][1] == {"question": "a\nb", "answer": "c"}
    assert isinstance(numbered[1][1], BadRow) and place_of(file, 4) == "rows.csv:4"


def test_lines_longer_than_a_part_stay_whole(small_parts: int, tmp_path: Path) -> None:
    rows = [{"a": "x" * size} for size in (10, 1000, 3, 5000, 2)]
    file = written(tmp_path / "rows.jsonl", as_jsonl(rows))
    assert read(file) == rows


def test_every_kind_that_a_name_can_say_is_read() -> None:
    assert set(readers.TABLES) | set(readers._READERS) == {"jsonl", "json", "csv", "parquet", "arrow"}
    assert kind_of("a/B.JSONL.ZST") == ("jsonl", "zst") and kind_of("a.parquet.gz") is None and kind_of("gz") is None


@pytest.mark.parametrize("width", [3, 4000], ids=["short lines", "long lines"])
@pytest.mark.parametrize("blank", ["", "\n", " \n", "\r\n", "\t \n"])
@pytest.mark.parametrize("ending", ["", "\n"])
def test_blank_lines_are_no_rows_and_count_as_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, blank: str, ending: str
) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 64)  # what is parsed at once ends in the middle of all this
    row = json.dumps({"text": "x" * width})
    content = f"{blank}{row}\n {row}\n{blank}{row}\nno JSON\n[1]\n{row}{ending}"
    scan = scan_file(written(tmp_path / "rows.jsonl", content.encode()))
    read = [one for part in scan.parts for one in read_part(source(tmp_path / "rows.jsonl"), part)]
    expected = [number for number, line in enumerate(content.split("\n"), start=1) if line.strip()]
    assert [number for number, _ in read] == expected and scan.num_rows == len(expected) == 6
    good, told = {"text": "x" * width}, [str(one) for _, one in read[3:5]]
    assert [one for _, one in read if not isinstance(one, BadRow)] == [good] * 4
    assert told[0].startswith("is not JSON: ") and told[1] == "must be an object, got [1]"
