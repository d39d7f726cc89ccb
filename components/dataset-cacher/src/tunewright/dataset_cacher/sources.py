"""Which files a source of the mix means: a file, a glob, a directory. Only names are looked at here."""

from __future__ import annotations

import difflib
import glob
from dataclasses import dataclass
from pathlib import Path

from tunewright.contracts.errors import InvalidDataset, NotFound, Problem
from tunewright.contracts.experiment import DatasetSource
from tunewright.contracts.experiment_file import looks_like_path

SUFFIXES = {".jsonl": "jsonl", ".jsonl.gz": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
"""What a file's name ends with, and how it is read."""

ALLOWED = f"allowed: {', '.join(SUFFIXES)}"


@dataclass(frozen=True)
class SourceFile:
    """One file of a source."""

    path: Path
    """Absolute."""

    shown: str
    """As messages name it: relative to the project where it lies inside it."""

    kind: str
    """How it is read: `jsonl`, `json`, `csv`, `parquet`."""


def find_files(source: DatasetSource, index: int, project_root: Path) -> tuple[SourceFile, ...]:
    """The files of the mix's source number `index`, in the order of their names.

    Raises NotFound where nothing is there, InvalidDataset for what this version cannot read; both name the field.
    """
    field, text = f"dataset.mix[{index}].source", source.source
    if "://" in text:
        raise _invalid(field, f"`{text}`: this version reads local files only", "download it and give its path")
    if source.revision is not None:
        raise _invalid(field.replace("source", "revision"), "goes with a hub id; this version reads local files only")
    path = project_root / Path(text).expanduser()
    if path.is_dir():
        paths = [one for one in path.rglob("*") if _kind_of(one) and not _is_hidden(one, path)]
        if not paths:
            raise _invalid(field, f"`{text}`: the directory has no file that can be read", ALLOWED)
    elif path.is_file():
        paths = [path]
    elif glob.has_magic(text):
        paths = [one for one in map(Path, glob.glob(str(path), recursive=True)) if one.is_file()]
    else:
        paths = []
    if not paths:
        raise _missing(field, text, path)
    return tuple(_source_file(one, field, project_root) for one in sorted(paths))


def _source_file(path: Path, field: str, project_root: Path) -> SourceFile:
    path = path.resolve()
    shown = str(path.relative_to(project_root)) if path.is_relative_to(project_root) else str(path)
    kind = _kind_of(path)
    if kind is None:
        raise _invalid(field, f"`{shown}`: cannot tell what it is from `{path.suffix or path.name}`", ALLOWED)
    return SourceFile(path, shown, kind)


def _kind_of(path: Path) -> str | None:
    return next((kind for suffix, kind in SUFFIXES.items() if path.name.lower().endswith(suffix)), None)


def _is_hidden(path: Path, directory: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(directory).parts)


def _invalid(field: str, message: str, hint: str = "") -> InvalidDataset:
    problem = Problem(field, message, hint)
    return InvalidDataset(str(problem).split("\n")[0], hint, (problem,))


def _missing(field: str, text: str, path: Path) -> NotFound | InvalidDataset:
    is_hub_id = text.count("/") == 1 and not looks_like_path(text) and not path.parent.is_dir() and not _kind_of(path)
    if is_hub_id:
        message = f"`{text}`: no such file here, and this version reads local files only, not the hub"
        return _invalid(field, message, "download it and give its path")
    if glob.has_magic(text):
        return NotFound(f"{field}: `{text}`: no file matches")
    if not path.parent.is_dir():
        return NotFound(f"{field}: `{text}`: no such file", f"there is no directory {path.parent} either")
    names = sorted(one.name for one in path.parent.iterdir() if one.is_dir() or _kind_of(one))
    close = difflib.get_close_matches(path.name, names, n=1)
    hint = f"did you mean `{Path(text).parent / close[0]}`?" if close else f"{path.parent} has: {', '.join(names[:8])}"
    return NotFound(f"{field}: `{text}`: no such file", hint if names else "")
