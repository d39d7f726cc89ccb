"""Sources in an object store: moto's S3, reached over HTTP as the real one is."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import socket
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pytest
from pyarrow import parquet
from s3fs import S3FileSystem
from servers.object_store import ObjectStore

from components.dataset_cacher.workbench import Workbench, conversation
from tunewright.contracts.errors import InvalidDataset, NotFound, Unavailable
from tunewright.contracts.experiment import DatasetSource
from tunewright.dataset_cacher.reading import lines, scans
from tunewright.dataset_cacher.reading.digests import DigestMemory
from tunewright.dataset_cacher.reading.opening import signature_of
from tunewright.dataset_cacher.reading.readers import place_of, read_part, scan_file
from tunewright.dataset_cacher.reading.sources import SourceFile, find_files

ROWS: list[dict[str, Any]] = [{"question": f"é{number}?", "answer": "x" * number} for number in range(300)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def as_parquet() -> bytes:
    content = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(ROWS), content, row_group_size=100)
    return content.getvalue()


def as_arrow_stream() -> bytes:
    table, content = arrow.Table.from_pylist(ROWS), io.BytesIO()
    with arrow.ipc.new_stream(content, table.schema) as writer:
        writer.write_table(table, max_chunksize=50)
    return content.getvalue()


@pytest.fixture(scope="module", autouse=True)
def bucket(objects: ObjectStore) -> None:
    files = {
        "data/b.jsonl": JSONL,
        "data/a.jsonl.gz": gzip.compress(JSONL),
        "data/deep/c.parquet": as_parquet(),
        "data/deep/d.arrow": as_arrow_stream(),
        "data/README.md": b"not a row",
        "splits/train-00000.jsonl": JSONL,
        "splits/test.jsonl": b"{}\n",
        "saved/dataset_dict.json": b'{"splits": ["train"]}',
        "saved/train/state.json": b'{"_data_files": [{"filename": "data-0.arrow"}]}',
        "saved/train/dataset_info.json": b"{}",
        "saved/train/data-0.arrow": as_arrow_stream(),
    }
    objects.put("bucket", files)


def find(source: str, **keys: Any) -> list[SourceFile]:
    return list(find_files(DatasetSource.model_validate({"source": source, **keys}), 0, Path("/nowhere")))


def read(file: SourceFile) -> list[Any]:
    return [row for part in scan_file(file).parts for _, row in read_part(file, part)]


def test_a_prefix_gives_the_files_below_it_in_the_order_of_their_names(s3: ObjectStore) -> None:
    found = find("s3://bucket/data")
    assert [one.location for one in found] == [
        f"s3://bucket/data/{name}" for name in ("a.jsonl.gz", "b.jsonl", "deep/c.parquet", "deep/d.arrow")
    ]
    assert [(one.kind, one.compression) for one in found][:2] == [("jsonl", "gz"), ("jsonl", "")]
    assert [read(one) for one in found] == [ROWS] * 4
    assert find("s3://bucket/data/") == found
    assert place_of(found[1], 7) == "s3://bucket/data/b.jsonl:7"


def test_a_file_and_a_glob_are_found(s3: ObjectStore) -> None:
    assert [one.location for one in find("s3://bucket/data/b.jsonl")] == ["s3://bucket/data/b.jsonl"]
    globbed = find("s3://bucket/data/**/*.parquet")
    assert [one.location for one in globbed] == ["s3://bucket/data/deep/c.parquet"]


def test_splits_and_saved_datasets_are_found_as_on_a_disk(s3: ObjectStore) -> None:
    assert [one.shown for one in find("s3://bucket/splits", split="test")] == ["s3://bucket/splits/test.jsonl"]
    saved = find("s3://bucket/saved")
    assert [one.location for one in saved] == ["s3://bucket/saved/train/data-0.arrow"]
    assert read(saved[0]) == ROWS


def test_a_large_file_is_read_part_by_part_with_the_digest_of_its_bytes(
    s3: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (scans, lines):
        monkeypatch.setattr(module, "PART_BYTES", 2000)
    file = find("s3://bucket/data/b.jsonl")[0]
    scan = scan_file(file)
    assert scan.sha256 == hashlib.sha256(JSONL).hexdigest()
    assert len(scan.parts) > 10 and scan.num_rows == 300
    middle = scan.parts[5]
    assert [row for _, row in read_part(file, middle)] == ROWS[middle.first_row : middle.first_row + middle.num_rows]


def test_digests_are_remembered_by_etag_and_a_new_content_has_another(s3: ObjectStore, tmp_path: Path) -> None:
    s3.put("changing", {"rows.jsonl": JSONL})
    file = find("s3://changing/rows.jsonl")[0]
    memory = DigestMemory(tmp_path)
    scan, before = memory.scan_of(file), signature_of(file)
    memory.save()
    known = json.loads((tmp_path / ".source-digests.json").read_text())
    assert known == {"s3://changing/rows.jsonl": [before, hashlib.sha256(JSONL).hexdigest()]}
    # What was written down is believed: the store is not read again.
    (tmp_path / ".source-digests.json").write_text(json.dumps({file.location: [before, "0" * 64]}))
    assert DigestMemory(tmp_path).sha256_of(file) == "0" * 64
    assert DigestMemory(tmp_path, is_trusted=False).sha256_of(file) == scan.sha256
    s3.put("changing", {"rows.jsonl": JSONL.replace(b"xxx", b"yyy")})
    assert signature_of(file) != before and signature_of(file)[0] == before[0]
    assert DigestMemory(tmp_path).sha256_of(file) == hashlib.sha256(JSONL.replace(b"xxx", b"yyy")).hexdigest()


def test_what_is_not_there_is_named_with_its_field(s3: ObjectStore) -> None:
    for source in ("s3://bucket/nothing.jsonl", "s3://no-such-bucket/rows.jsonl", "s3://bucket/data/*.csv"):
        with pytest.raises(NotFound, match=r"dataset.mix\[0\].source: `s3://"):
            find(source)
    with pytest.raises(InvalidDataset, match=r"dataset.mix\[0\].source: `s3://bucket/data/README.md`: cannot tell"):
        find("s3://bucket/data/README.md")


def test_refused_credentials_are_named(s3: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(Unavailable, match=r"dataset.mix\[0\].source: s3://bucket/data: .*redentials"):
        find("s3://bucket/data")


def test_a_store_that_does_not_answer_is_said_so(monkeypatch: pytest.MonkeyPatch, s3: ObjectStore) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    # Nobody listens there any more.
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(Unavailable, match=r"dataset.mix\[0\].source: s3://elsewhere/rows.jsonl: EndpointConnection"):
        find("s3://elsewhere/rows.jsonl")


def test_another_scheme_and_a_password_in_a_url_are_refused() -> None:
    with pytest.raises(InvalidDataset, match=r"dataset.mix\[0\].source: `ftp://host/rows.jsonl`: .*s3://.*gs://"):
        find("ftp://host/rows.jsonl")
    with pytest.raises(InvalidDataset) as caught:
        find("s3://key:secret@bucket/rows.jsonl")
    assert "secret@" not in str(caught.value) and "must not hold a password" in str(caught.value)


def test_a_cache_made_from_a_store_is_the_one_made_from_a_disk(s3: ObjectStore, bench: Workbench) -> None:
    rows = [conversation("a", f"answer {number}") for number in range(50)]
    local = bench.write("rows.jsonl", rows)
    s3.put("whole", {"deep/rows.jsonl": local.read_bytes()})
    there = bench.provide({"source": "s3://whole/deep/"})
    assert bench.trained(there) == [f"answer {number}</s>" for number in range(50)]
    assert bench.provide({"source": "rows.jsonl"}).is_hit
    missing = bench.run("prepare", str(bench.experiment(['source = "s3://whole/shallow"'])), expect=66)
    assert "dataset.mix[0].source: `s3://whole/shallow`: nothing is there" in missing.stderr
