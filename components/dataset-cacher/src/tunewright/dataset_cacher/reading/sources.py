"""Which files a source of the mix means: a file, a glob, a directory, here or in a store. Only names are read."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tunewright.contracts.errors import InvalidDataset, InvalidExperiment, NotFound, Problem, Unavailable
from tunewright.contracts.experiment import DatasetSource
from tunewright.contracts.experiment_file import looks_like_path

KINDS = {".jsonl": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".arrow": "arrow"}
"""What a file's name ends with, and how it is read."""

COMPRESSIONS = {".gz": "gz", ".zst": "zst", ".xz": "xz", ".bz2": "bz2"}
COMPRESSIBLE = (".jsonl", ".json", ".csv")

ALLOWED = f"allowed: {', '.join(KINDS)}; {', '.join(COMPRESSIBLE)} also with {', '.join(COMPRESSIONS)}"

SAVED_STATE = "state.json"
SAVED_SPLITS = "dataset_dict.json"
BOOKKEEPING = (SAVED_STATE, SAVED_SPLITS, "dataset_info.json")
"""What `save_to_disk` of Hugging Face datasets writes beside the rows."""

DEFAULT_SPLIT = "train"


@dataclass(frozen=True)
class SourceFile:
    """One file of a source."""

    location: str
    """Absolute path, or URL."""

    shown: str
    """As messages name it: relative to the project where it lies inside it."""

    kind: str
    """How it is read: `jsonl`, `json`, `csv`, `parquet`, `arrow`."""

    compression: str = ""
    """`gz`, `zst`, `xz`, `bz2`, or empty."""

    @property
    def path(self) -> Path:
        """Where it lies on this machine; of local files only."""
        return Path(self.location)

    @property
    def is_remote(self) -> bool:
        """Whether it lies in an object store."""
        return not self.location.startswith("/")


def find_files(source: DatasetSource, index: int, project_root: Path) -> tuple[SourceFile, ...]:
    """The files of the mix's source number `index`, in the order of their names.

    Raises NotFound where nothing is there, Unavailable where a store does not answer, InvalidDataset for what cannot
    be read; all name the field.
    """
    field, text = f"dataset.mix[{index}]", source.source
    for key in ("revision", "config"):
        if getattr(source, key) is not None:
            what = "lies here" if (project_root / text).exists() else "is none"
            raise _invalid(f"{field}.{key}", f"goes with a hub id, and `{text}` {what}", "leave it out")
    if "://" in text:
        return _find_remote(source, field)
    path = project_root / Path(text).expanduser()
    if path.is_dir():
        names = [one.relative_to(path).as_posix() for one in path.rglob("*") if one.is_file()]
        paths = [path / one for one in choose_names(names, lambda name: (path / name).read_bytes(), source, field)]
    elif path.is_file():
        paths = [path]
    elif glob.has_magic(text):
        paths = sorted(one for one in map(Path, glob.glob(str(path), recursive=True)) if one.is_file())
    else:
        paths = []
    if not paths:
        raise _missing(f"{field}.source", text, path)
    if not path.is_dir():
        _refuse_split(source, field)
    return tuple(_local_file(one, field, project_root) for one in paths)


def _find_remote(source: DatasetSource, field: str) -> tuple[SourceFile, ...]:
    from tunewright.dataset_cacher.reading import remote

    url = source.source
    try:
        if glob.has_magic(url):
            _refuse_split(source, field)
            urls = sorted(remote.list_matching(url))
        elif (names := remote.list_below(url)) is None:
            _refuse_split(source, field)
            urls = [url]
        else:
            root = url.rstrip("/")
            chosen = choose_names(names, lambda name: remote.read_remote(f"{root}/{name}"), source, field)
            urls = [f"{root}/{name}" for name in chosen]
    except (NotFound, Unavailable) as error:
        raise type(error)(f"{field}.source: {error.message}", error.hint) from None
    except InvalidDataset:
        raise
    except InvalidExperiment as error:
        raise _invalid(f"{field}.source", error.message, error.hint) from None
    if not urls:
        raise NotFound(f"{field}.source: `{url}`: no file matches")
    return tuple(_source_file(one, one, field) for one in urls)


def choose_names(names: Sequence[str], read: Callable[[str], bytes], source: DatasetSource, field: str) -> list[str]:
    """Which of the files below a directory are its rows, in order; `names` are relative, `read` gives one's content.

    What `save_to_disk` wrote is taken as that says; elsewhere every file that can be read, or those of the split.
    """
    if SAVED_SPLITS in names:
        return _names_of_saved_split(names, read, source, field)
    if SAVED_STATE in names:
        _refuse_split(source, field)
        return _names_of_saved(SAVED_STATE, read, field)
    readable = [one for one in names if kind_of(one) and not _is_hidden(one) and not _is_bookkeeping(one, names)]
    readable.sort(key=lambda name: PurePosixPath(name).parts)
    if not readable:
        raise _invalid(f"{field}.source", f"`{source.source}`: the directory has no file that can be read", ALLOWED)
    chosen = [one for one in readable if source.split is None or _is_of_split(one, source.split)]
    if not chosen:
        message = f"`{source.source}` has no folder or file called `{source.split}`"
        raise _invalid(f"{field}.split", message, f"it has: {', '.join(readable[:8])}")
    return chosen


def _names_of_saved_split(
    names: Sequence[str], read: Callable[[str], bytes], source: DatasetSource, field: str
) -> list[str]:
    there = sorted(one.removesuffix(f"/{SAVED_STATE}") for one in names if one.endswith(f"/{SAVED_STATE}"))
    split = source.split or DEFAULT_SPLIT
    if split not in there:
        raise _invalid(f"{field}.split", f"`{source.source}` has no split `{split}`", f"it has: {', '.join(there)}")
    return [f"{split}/{name}" for name in _names_of_saved(f"{split}/{SAVED_STATE}", read, field)]


def _names_of_saved(state: str, read: Callable[[str], bytes], field: str) -> list[str]:
    import json

    try:
        document = json.loads(read(state))
        files = [str(one["filename"]) for one in document["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise _invalid(f"{field}.source", f"{state} is not what `save_to_disk` writes: {error!r}") from None
    if document.get("_indices_data_files"):
        raise _invalid(f"{field}.source", f"{state} selects rows by a file of indices", "save it again")
    return files


def _is_of_split(name: str, split: str) -> bool:
    """`train.jsonl`, `train-00000-of-00002.parquet`, `train_a.csv`, or anything in a folder `train`."""
    *folders, last = PurePosixPath(name).parts
    return split in folders or re.match(rf"{re.escape(split)}[._-]", last) is not None


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def _is_bookkeeping(name: str, names: Sequence[str]) -> bool:
    """Whether it lies beside rows that `save_to_disk` wrote, and holds none."""
    path = PurePosixPath(name)
    beside = {str(path.with_name(one)) for one in (SAVED_STATE, SAVED_SPLITS)}
    return path.name in BOOKKEEPING and not beside.isdisjoint(names)


def _local_file(path: Path, field: str, project_root: Path) -> SourceFile:
    path = path.resolve()
    shown = str(path.relative_to(project_root)) if path.is_relative_to(project_root) else str(path)
    return _source_file(str(path), shown, field)


def _source_file(location: str, shown: str, field: str) -> SourceFile:
    found = kind_of(location)
    if found is None:
        name = PurePosixPath(location)
        raise _invalid(
            f"{field}.source", f"`{shown}`: cannot tell what it is from `{name.suffix or name.name}`", ALLOWED
        )
    return SourceFile(location, shown, *found)


def kind_of(name: str) -> tuple[str, str] | None:
    """How a file of this name is read, and how it is compressed; None where its name does not tell."""
    path = PurePosixPath(name.lower())
    if path.suffix in KINDS:
        return KINDS[path.suffix], ""
    inner = PurePosixPath(path.stem).suffix
    if path.suffix in COMPRESSIONS and inner in COMPRESSIBLE:
        return KINDS[inner], COMPRESSIONS[path.suffix]
    return None


def _refuse_split(source: DatasetSource, field: str) -> None:
    if source.split is not None:
        hint = "name the files of the split as the source"
        raise _invalid(f"{field}.split", f"goes with a hub id or a directory of splits, not `{source.source}`", hint)


def _invalid(field: str, message: str, hint: str = "") -> InvalidDataset:
    problem = Problem(field, message, hint)
    return InvalidDataset(str(problem).split("\n")[0], hint, (problem,))


def _missing(field: str, text: str, path: Path) -> NotFound | InvalidDataset:
    if is_hub_id(text) and not path.parent.is_dir():
        message = f"`{text}` is no file here, and a hub id needs its commit, got none"
        hint = "40 hexadecimal digits, from the dataset's page; a branch name would not be reproducible"
        return _invalid(field.replace("source", "revision"), message, hint)
    if glob.has_magic(text):
        return NotFound(f"{field}: `{text}`: no file matches")
    if not path.parent.is_dir():
        return NotFound(f"{field}: `{text}`: no such file", f"there is no directory {path.parent} either")
    import difflib

    names = sorted(one.name for one in path.parent.iterdir() if one.is_dir() or kind_of(one.name))
    close = difflib.get_close_matches(path.name, names, n=1)
    hint = f"did you mean `{Path(text).parent / close[0]}`?" if close else f"{path.parent} has: {', '.join(names[:8])}"
    return NotFound(f"{field}: `{text}`: no such file", hint if names else "")


def is_hub_id(text: str) -> bool:
    """Whether `text` has the form of a hub id: an owner and a name."""
    is_id = re.fullmatch(r"[\w.-]+/[\w.-]+", text) is not None
    return is_id and not looks_like_path(text) and kind_of(text) is None
