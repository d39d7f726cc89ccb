"""The locks of a checkout, read and judged."""

from __future__ import annotations

from pathlib import Path

from tunewright.contracts.preflight import Finding
from tunewright.env_builder.locks.agreement import REFRESH, Resolve, find_disagreements, find_resolve_problems
from tunewright.env_builder.locks.requirement_files import (
    RequirementLine,
    lines_with_hosts,
    lock_entries,
    requirement_lines,
)

FOLDER = "3rdparty/python"
"""Where requirements and locks are, below the checkout."""

LOCKED_TOGETHER = {
    "tools": ("pytest.in",),
    "train-cpu": ("inference.in", "mlflow-server.in", "pytest.in", "trl.in"),
    "train-cuda": ("pytest.in",),
}
"""Further requirement files of a lock, as `refresh-locks` gives them to uv. One that stands here needs no own lock."""


def find_lock_problems(root: Path) -> list[Finding]:
    """What is wrong with the locks of the checkout at `root`: none where it has no third-party folder. Reads only."""
    problems, resolves = list[Finding](), dict[str, Resolve]()
    for source in sorted((root / FOLDER).glob("*.in")):
        lock = source.with_suffix(".lock")
        if not lock.is_file():
            problems += _missing_lock(root, source)
            continue
        lines, unreadable = _requirements(root, _sources(source))
        resolves[source.stem] = _resolve(root, source.stem, lock, lines)
        problems += [*unreadable, *find_resolve_problems(resolves[source.stem])]
    return [*problems, *find_disagreements(resolves)]


def _sources(source: Path) -> list[Path]:
    """Every requirement file of the resolve of `source`, itself first."""
    others = (source.parent / name for name in LOCKED_TOGETHER.get(source.stem, ()))
    return [source, *(other for other in others if other.is_file())]


def _resolve(root: Path, name: str, lock: Path, lines: list[RequirementLine]) -> Resolve:
    text = read_text(lock)
    path = lock.relative_to(root).as_posix()
    return Resolve(name, path, tuple(lines), tuple(lock_entries(text)), tuple(lines_with_hosts(text)))


def _requirements(root: Path, sources: list[Path]) -> tuple[list[RequirementLine], list[Finding]]:
    """The lines of `sources` and of the files they include, each file once, and what of them cannot be read."""
    lines, problems, waiting = list[RequirementLine](), list[Finding](), list(sources)
    for source in waiting:  # grows
        for line in requirement_lines(read_text(source), source.relative_to(root).as_posix()):
            if line.included is None:
                lines.append(line)
            elif (file := source.parent / line.included).is_file():
                waiting += [] if file in waiting else [file]
            else:
                message, where = f"`{line.text}` includes a file that is not there", f"{line.path}:{line.line}"
                problems.append(Finding(code="lock-requirement-unreadable", path=where, message=message))
    return lines, problems


def _missing_lock(root: Path, source: Path) -> list[Finding]:
    if any(source.name in together for together in LOCKED_TOGETHER.values()):
        return []
    path, message = source.relative_to(root).as_posix(), f"has no lock beside it: {source.stem}.lock"
    return [Finding(code="lock-missing", path=path, message=message, hint=f"lock it: {REFRESH} {source.stem}")]


def read_text(path: Path) -> str:
    """The file's text. Bytes that are no UTF-8 show as such in what is found wrong."""
    return path.read_text(encoding="utf-8", errors="replace")
