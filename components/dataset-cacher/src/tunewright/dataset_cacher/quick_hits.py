"""Answers `prepare` at once where nothing has changed since the same was asked: nothing but the standard library.

After a hit a package writes down what it was asked, everything on this machine that decided the answer, and the
answer. The next process compares sizes, times and inodes, and is done before it would have imported a thing. What is
not a file here (object stores, the hub) or could change unseen (code that is no package, plugins beside it) is not
written down. A note that is lost only costs the usual way.
"""

from __future__ import annotations

import json
import os
import sys
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_DECIDING_VARIABLES = ("TUNEWRIGHT_", "HF_", "HUGGINGFACE_", "PEX_", "PYTHON", "XDG_", "HOME")

_SETTLED_NANOSECONDS = 2_000_000_000
"""As in `digests`: a change this young might not show in the times of a file."""

Signature = list[int]
Watched = dict[str, Signature | bool]
"""What each path was: size, times and inode; or only whether it was there."""


def answer(arguments: Sequence[str]) -> int | None:
    """Print what the command would, and give its exit code; None where it has to run."""
    started = time.monotonic()
    try:
        note = _read_note(arguments)
        if note is None or not all(_is_as_before(path, known) for path, known in note["watched"].items()):
            return None
        os.utime(note["document"]["path"])  # it counts as used now
    except (OSError, ValueError, KeyError, TypeError):
        return None
    print_answer(note["document"], time.monotonic() - started, "--json" in arguments)
    return 0


def print_answer(document: Mapping[str, Any], seconds: float, as_json: bool) -> None:
    """What `prepare` says of a dataset: `document` has it, and whether it is a `hit`."""
    if as_json:
        text = json.dumps({**document, "seconds": round(seconds, 3)}, indent=2, ensure_ascii=False)
        print(text)
        return
    verb = "found" if document["hit"] else "prepared"
    counts = "{rows:,} rows, {tokens:,} tokens, {trained_tokens:,} of them trained".format(**document)
    print(f"{verb} in {seconds:.1f} s: {counts}; {document['path']}", file=sys.stderr)
    print(document["digest"])


def remember(arguments: Sequence[str], document: Mapping[str, Any], watched: Watched) -> None:
    """Write the answer down for the next process that asks the same. `watched` must be from before it was found."""
    path = _note_path(arguments)
    if path is None or not all(_has_settled(known) for known in watched.values()):
        return
    note = {"asked": _asked(arguments), "watched": watched, "document": {**document, "hit": True}}
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}.{os.getpid()}.tmp"
        with open(temporary, "w", encoding="utf-8") as stream:
            json.dump(note, stream)
        os.replace(temporary, path)
    except OSError:  # a full or read-only disk: the answer stands without it
        return


def watch(files: Iterable[str], existing: Iterable[str] = ()) -> Watched:
    """`files` as they are now, and of `existing` whether they are there."""
    watched: Watched = {path: os.path.lexists(path) for path in existing}
    for path in files:
        watched[path] = _signature(path) if os.path.exists(path) else False
    return watched


def _read_note(arguments: Sequence[str]) -> dict[str, Any] | None:
    path = _note_path(arguments)
    if path is None:
        return None
    with open(path, encoding="utf-8") as stream:
        note: dict[str, Any] = json.load(stream)
    return note if note["asked"] == _asked(arguments) else None


def _note_path(arguments: Sequence[str]) -> str | None:
    """Where the answer to `arguments` is; None for what is not written down."""
    if arguments[:1] != ["prepare"] or "--paranoid" in arguments or not _is_package():
        return None
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    name = zlib.crc32(json.dumps(_asked(arguments)).encode())  # the note itself says what was asked
    return os.path.join(caches, "tunewright", "dataset-hits", f"{name:08x}.json")


def _is_package() -> bool:
    """Whether this is one package and nothing beside it: its directory is named by the digest of its code."""
    return os.path.exists(os.path.join(sys.prefix, "PEX-INFO")) and not os.environ.get("PEX_EXTRA_SYS_PATH")


def _asked(arguments: Sequence[str]) -> list[Any]:
    variables = {name: value for name, value in sorted(os.environ.items()) if name.startswith(_DECIDING_VARIABLES)}
    return [list(arguments), os.getcwd(), sys.prefix, variables]


def _is_as_before(path: str, known: Signature | bool) -> bool:
    if isinstance(known, bool):
        return os.path.lexists(path) == known
    return _signature(path) == known


def _has_settled(known: Signature | bool) -> bool:
    return isinstance(known, bool) or time.time_ns() - max(known[1:3]) > _SETTLED_NANOSECONDS


def _signature(path: str) -> Signature:
    stat = os.stat(path)
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
