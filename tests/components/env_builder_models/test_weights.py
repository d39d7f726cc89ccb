"""A torn safetensors file is known by its header, without any library that reads tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.env_builder_models.hosted import make_safetensors, make_sharded
from tunewright.contracts.errors import IntegrityError
from tunewright.env_builder.models.weights import (
    check_index_files,
    check_index_tensors,
    read_index,
    read_tensor_names,
)

WHOLE = make_safetensors({"a": (2, 3), "b": (0,), "c": ()})


def read(tmp_path: Path, content: bytes) -> frozenset[str]:
    path = tmp_path / "file"
    path.write_bytes(content)
    return read_tensor_names(path, "model.safetensors")


def with_header(header: Any, data_bytes: int) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data_bytes)


def test_a_whole_file_gives_the_names_of_its_tensors(tmp_path: Path) -> None:
    assert read(tmp_path, WHOLE) == {"a", "b", "c"}


def test_any_shortening_and_any_lengthening_is_noticed(tmp_path: Path) -> None:
    for length in range(len(WHOLE)):
        with pytest.raises(IntegrityError, match=r"model\.safetensors: is not a whole safetensors file"):
            read(tmp_path, WHOLE[:length])
    with pytest.raises(IntegrityError):
        read(tmp_path, WHOLE + b"\0")


def tensor(begin: int, end: int, kind: str = "F32", shape: tuple[int, ...] = (1,)) -> dict[str, Any]:
    return {"dtype": kind, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "data_bytes"),
    [
        ({"a": tensor(0, 4), "b": tensor(8, 12)}, 12),
        ({"a": tensor(0, 4), "b": tensor(0, 4)}, 4),
        ({"a": tensor(0, 8)}, 8),
        ({"a": tensor(4, 0)}, 4),
        ({"a": {"dtype": "F32"}}, 0),
        ({"a": {"dtype": "F32", "shape": "x", "data_offsets": ["0", "4"]}}, 4),
        (["a"], 0),
    ],
)
def test_offsets_that_do_not_describe_the_file_are_noticed(header: Any, data_bytes: int, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        read(tmp_path, with_header(header, data_bytes))


def test_an_html_page_in_place_of_weights_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="cannot hold a header"):
        read(tmp_path, b"<!doctype html><html><body>Sign in to the network</body></html>")


def test_an_element_type_of_the_future_and_half_bytes_are_read(tmp_path: Path) -> None:
    assert read(tmp_path, with_header({"a": tensor(0, 3, "F99", (5,)), "b": tensor(3, 4, "F4", (2,))}, 4)) == {"a", "b"}


def test_an_index_names_its_files_relative_to_the_model(tmp_path: Path) -> None:
    path = tmp_path / "index"
    path.write_bytes(b'{"weight_map": {"a": "one.safetensors"}}')
    assert read_index(path, "model.safetensors.index.json") == {"a": "one.safetensors"}
    assert read_index(path, "sub/model.safetensors.index.json") == {"a": "sub/one.safetensors"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 1}}'])
def test_what_is_no_index_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "index"
    path.write_text(text)
    with pytest.raises(IntegrityError, match=r"x\.index\.json: is not an index"):
        read_index(path, "x.index.json")


def test_a_shard_that_is_missing_and_a_tensor_that_is_missing_are_named(tmp_path: Path) -> None:
    files = make_sharded()
    path = tmp_path / "index"
    path.write_bytes(files["model.safetensors.index.json"])
    index = read_index(path, "the index")
    check_index_files("the index", index, files)
    with pytest.raises(IntegrityError, match=r"the index names files .* model-00002-of-00003\.safetensors"):
        check_index_files("the index", index, [name for name in files if "00002" not in name])
    tensors = {name: frozenset(tensor for tensor, file in index.items() if file == name) for name in index.values()}
    check_index_tensors("the index", index, tensors)
    with pytest.raises(IntegrityError, match=r"model-00001-of-00003.safetensors: lacks the tensor `layer.1.weight`"):
        check_index_tensors("the index", index, {**tensors, "model-00001-of-00003.safetensors": frozenset()})
