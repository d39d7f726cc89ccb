"""Whether safetensors files are whole: their headers are read, their tensors are not.

The format: 8 bytes, the header's length N, little-endian; N bytes of JSON, each tensor's name with `dtype`, `shape` and
`data_offsets`; then the tensors, one after the other without a hole to the end of the file.
https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from tunewright.contracts.errors import IntegrityError

_LENGTH_BYTES = 8
_LONGEST_HEADER_BYTES = 100_000_000
"""The format's own limit."""

_BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
"""Bits of one element. A type that is not listed is newer than this table, and its sizes are not checked."""


def read_tensor_names(path: Path, name: str) -> frozenset[str]:
    """The names of the tensors in the safetensors file at `path`, which is called `name` in messages.

    Raises IntegrityError naming the file where header and size do not fit: the file is torn, or is something else.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(_LENGTH_BYTES)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < _LENGTH_BYTES or length > min(size_bytes - _LENGTH_BYTES, _LONGEST_HEADER_BYTES):
            raise _torn(name, f"{size_bytes} bytes cannot hold a header of {length}")
        header = _parse_header(file.read(length), name)
    _check_offsets(header, size_bytes - _LENGTH_BYTES - length, name)
    return frozenset(header)


def _parse_header(text: bytes, name: str) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except ValueError as error:
        raise _torn(name, f"its header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise _torn(name, "its header is not an object")
    header.pop("__metadata__", None)
    return header


def _check_offsets(header: Mapping[str, Any], data_bytes: int, name: str) -> None:
    """Tensor after tensor, without a hole, up to the file's last byte."""
    try:
        spans = sorted(
            (*tensor["data_offsets"], tensor["dtype"], tensor["shape"], key) for key, tensor in header.items()
        )
        expected = 0
        for begin, end, kind, shape, key in spans:
            wanted = math.ceil(math.prod(shape) * _BITS[kind] / 8) if kind in _BITS else end - begin
            if begin != expected or end - begin != wanted:
                raise _torn(name, f"tensor `{key}` ({kind} {shape}) is said to be at {begin} to {end}")
            expected = end
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, IntegrityError):
            raise
        raise _torn(name, f"its header describes a tensor in an unknown way: {error!r}") from None
    if expected != data_bytes:
        raise _torn(name, f"its tensors need {expected} bytes, there are {data_bytes}")


def read_index(path: Path, name: str) -> dict[str, str]:
    """The index of a model in several files: each tensor's name with the file that holds it, relative to the model.

    Raises IntegrityError where it is no index.
    """
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
        folder = PurePosixPath(name).parent
        return {tensor: (folder / file).as_posix() for tensor, file in weight_map.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{name}: is not an index of safetensors files: {error!r}") from None


def check_index_files(name: str, index: Mapping[str, str], files: Iterable[str]) -> None:
    """Raise IntegrityError where the index `name` speaks of files that the model does not have."""
    missing = sorted(set(index.values()) - set(files))
    if missing:
        raise IntegrityError(f"{name} names files that the model does not have: {', '.join(missing[:5])}")


def check_index_tensors(name: str, index: Mapping[str, str], tensors: Mapping[str, frozenset[str]]) -> None:
    """Raise IntegrityError where a file lacks a tensor that the index `name` says it holds."""
    for tensor, file in index.items():
        if tensor not in tensors[file]:
            raise IntegrityError(f"{file}: lacks the tensor `{tensor}`, which {name} says it holds")


def _torn(name: str, why: str) -> IntegrityError:
    return IntegrityError(f"{name}: is not a whole safetensors file: {why}")
