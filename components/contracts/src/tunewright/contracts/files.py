"""Writing so that a crash at any moment leaves the old file or the new one, and reading by digest."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

_BLOCK_BYTES = 1 << 20


def sync_directory(directory: Path) -> None:
    """Make renames inside `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write `data` to a temporary name beside `path`, sync it, and rename it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_text_atomically(path: Path, text: str) -> None:
    """`write_bytes_atomically` of UTF-8 text."""
    write_bytes_atomically(path, text.encode())


def write_json_atomically(path: Path, document: Any) -> None:
    """`write_bytes_atomically` of JSON, indented, keys in the order given, with a last newline."""
    write_text_atomically(path, json_text(document))


def json_text(document: Any) -> str:
    """The JSON our files hold: two spaces of indent, keys in the order given, a last newline."""
    return _indented(document, "", _quoted) + "\n"


def ascii_json(document: Any, pad: str = "") -> str:
    """The same of ASCII alone and without the newline, to stand in another text. `pad`: the indent it begins at."""
    return _indented(document, pad, _quoted_in_ascii)


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_quoted = json.encoder.encode_basestring
# What is put into other texts is much the same each time: a sweep writes one program into thousands of scripts.
_quoted_in_ascii = functools.lru_cache(maxsize=256)(json.encoder.encode_basestring_ascii)
_NESTED = (dict, list, tuple)
_WORDS = {None: "null", True: "true", False: "false"}


def _indented(value: Any, pad: str, quoted: Callable[[str], str]) -> str:
    """What `json.dumps` gives with `indent=2`, in a fifth of its time: a sweep writes thousands of plans."""
    if isinstance(value, str):
        return quoted(value)
    if not isinstance(value, _NESTED):
        return _plain(value)
    inner = f"{pad}  "
    if isinstance(value, dict):
        items = [f"{quoted(_key(key))}: {_indented(one, inner, quoted)}" for key, one in value.items()]
        brackets = "{}"
    else:
        items, brackets = [_indented(one, inner, quoted) for one in value], "[]"
    if not items:
        return brackets
    between = f",\n{inner}"
    return f"{brackets[0]}\n{inner}{between.join(items)}\n{pad}{brackets[1]}"


def _plain(value: Any) -> str:
    if value is None or value is True or value is False:
        return _WORDS[value]
    is_usual = type(value) is int or (type(value) is float and math.isfinite(value))
    return repr(value) if is_usual else _encode(value)


def _key(key: Any) -> str:
    """A key as JSON has it: text."""
    return key if isinstance(key, str) else next(iter(json.loads(_encode({key: 0}))))


def append_line(path: Path, line: str) -> None:
    """Append one line in one write, so that readers and other writers never see half of it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def sha256_of_file(path: Path) -> str:
    """SHA-256 of the file's content, 64 hexadecimal digits. Memory does not grow with the file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_tree(root: Path) -> str:
    """SHA-256 over a file, or over the relative path, mode bit and content of every file below a directory.

    Links count as their target's text. Times and owners do not count.
    """
    if root.is_file():
        return sha256_of_file(root)
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            digest.update(f"link {name}\0{os.readlink(path)}\0".encode())
        elif path.is_file():
            executable = "x" if os.access(path, os.X_OK) else "-"
            digest.update(f"file {name}\0{executable}\0{sha256_of_file(path)}\0".encode())
    return digest.hexdigest()
