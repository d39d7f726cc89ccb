"""Files: a crash at any moment leaves the old or the new one, and digests see what must be seen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.contracts.files import (
    append_line,
    ascii_json,
    json_text,
    sha256_of_file,
    sha256_of_tree,
    write_bytes_atomically,
    write_json_atomically,
)

# Kills itself at the given call of the given function of `os`, in the middle of writing.
CRASH = """
import os, signal, sys
from pathlib import Path
from tunewright.contracts.files import write_bytes_atomically
path, function, when = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
original = getattr(os, function)
def dying(*arguments):
    if when == "after":
        original(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(os, function, dying)
write_bytes_atomically(path, b"new" * 100_000)
"""


@pytest.mark.parametrize(
    ("function", "when", "left"),
    [("fsync", "before", b"old"), ("fsync", "after", b"old"), ("replace", "before", b"old"),
     ("replace", "after", b"new" * 100_000)],
)  # fmt: skip
def test_a_kill_in_the_middle_of_writing_leaves_the_old_or_the_new_file(
    function: str, when: str, left: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", CRASH, str(path), function, when], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == left


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    documents = [{"a": "x" * 50_000}, {"b": "y" * 70_000}]
    write_json_atomically(path, documents[0])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for document in documents:
                write_json_atomically(path, document)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert all(json.loads(path.read_text()) in documents for _ in range(100))
    finally:
        stop.set()
        writer.join()


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json_atomically(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json_atomically(path, {"a": float("nan")})
    path.with_name("directory").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_bytes_atomically(path.with_name("directory"), b"x")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["directory", "file.json"]
    assert json.loads(path.read_text()) == {"a": 1}


def test_the_mode_is_the_one_asked_for(tmp_path: Path) -> None:
    write_bytes_atomically(tmp_path / "secret", b"x", mode=0o600)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_json_keeps_the_order_of_keys_and_ends_with_a_newline() -> None:
    assert json_text({"b": 1, "a": "ü"}) == '{\n  "b": 1,\n  "a": "ü"\n}\n'


_KEYS = st.text() | st.integers() | st.booleans() | st.none()
_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(st.recursive(_SCALARS, lambda inner: st.lists(inner) | st.dictionaries(_KEYS, inner) | st.tuples(inner, inner)))
def test_json_is_the_text_that_python_indents(document: object) -> None:
    assert json_text(document) == json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    assert ascii_json(document) == json.dumps(document, indent=2)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_json_has_not_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text({"a": [number]})


def test_lines_of_several_writers_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    lines = [str(number) * 500 for number in range(8)]

    def write(line: str) -> None:
        for _ in range(20):
            append_line(path, line)

    threads = [threading.Thread(target=write, args=(line,)) for line in lines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.read_text().splitlines()) == sorted(lines * 20)


def test_the_digest_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of_file(tmp_path / "abc") == sha256_of_tree(tmp_path / "abc") == known


def tree(root: Path) -> Path:
    (root / "sub").mkdir(parents=True)
    (root / "a").write_text("one")
    (root / "sub" / "b").write_text("two")
    (root / "link").symlink_to("a")
    return root


@pytest.mark.parametrize("change", ["content", "name", "mode", "added", "removed", "link", "moved", "link_to_file"])
def test_the_digest_of_a_tree_sees_every_change(change: str, tmp_path: Path) -> None:
    root = tree(tmp_path / "tree")
    before = sha256_of_tree(root)
    if change == "content":
        (root / "a").write_text("One")
    elif change == "name":
        (root / "a").rename(root / "c")
    elif change == "mode":
        (root / "a").chmod(0o755)
    elif change == "added":
        (root / "sub" / "empty").touch()
    elif change == "removed":
        (root / "sub" / "b").unlink()
    elif change == "link":
        (root / "link").unlink()
        (root / "link").symlink_to("sub/b")
    elif change == "moved":
        (root / "sub" / "b").rename(root / "b")
    else:
        (root / "link").unlink()
        (root / "link").write_text("one")
    assert sha256_of_tree(root) != before


def test_the_digest_of_a_tree_does_not_see_times_or_place(tmp_path: Path) -> None:
    first, second = tree(tmp_path / "first"), tree(tmp_path / "elsewhere" / "second")
    os.utime(second / "a", (0, 0))
    assert sha256_of_tree(first) == sha256_of_tree(second)


def test_a_link_out_of_the_tree_counts_as_its_text_and_is_not_followed(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree")
    (root / "out").symlink_to(tmp_path / "outside")
    before = sha256_of_tree(root)
    (tmp_path / "outside").write_text("there now")
    assert sha256_of_tree(root) == before


@given(st.dictionaries(st.text("ab", min_size=1, max_size=2), st.binary(max_size=3), min_size=1, max_size=3))
@settings(max_examples=30, deadline=None)
def test_trees_have_one_digest_exactly_when_they_are_equal(files: dict[str, bytes]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        for name, content in files.items():
            (Path(one) / name).write_bytes(content)
            (Path(two) / name).write_bytes(content)
        assert sha256_of_tree(Path(one)) == sha256_of_tree(Path(two))
        name = next(iter(files))
        (Path(two) / name).write_bytes(files[name] + b"x")
        assert sha256_of_tree(Path(one)) != sha256_of_tree(Path(two))
