"""What of this machine a job sees: its run's directory, its dataset, its model, and what the user mounts. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from tunewright.contracts.jobs import JobSpec


@dataclass(frozen=True)
class Mount:
    """A directory or file of this machine, and where the container has it."""

    source: str
    target: str
    is_read_only: bool
    path: str
    """The field of the experiment that asks for it."""

    def to_docker(self) -> dict[str, object]:
        """In Docker's words. A bind mount of this kind fails where the source is missing, instead of making it."""
        return {"Type": "bind", "Source": self.source, "Target": self.target, "ReadOnly": self.is_read_only}


def parse_mount(text: str, path: str = "") -> Mount:
    """`HOST:CONTAINER` or `HOST:CONTAINER:ro`. Raises ValueError saying what is wrong with it."""
    parts = text.split(":")
    mode = parts.pop() if len(parts) == 3 and parts[2] in ("ro", "rw") else "rw"
    if len(parts) != 2:
        raise ValueError(f"must be HOST:CONTAINER or HOST:CONTAINER:ro, got {text!r}")
    for place in parts:
        if not _is_clean(place):
            raise ValueError(f"paths must be absolute, without `..` and not `/`, got {place!r}")
    return Mount(parts[0], parts[1], mode == "ro", path)


def _is_clean(place: str) -> bool:
    path = PurePosixPath(place)
    return path.is_absolute() and ".." not in path.parts and len(path.parts) > 1 and "\0" not in place


def mounts_of(job: JobSpec, texts: Sequence[str]) -> tuple[Mount, ...]:
    """Everything `job` sees, `texts` being the user's own. One target may stand in it twice: `clashes` finds that."""
    own = tuple(parse_mount(text, f"cluster.options.mounts[{number}]") for number, text in enumerate(texts))
    return (*dict.fromkeys(_mounts_of_job(job)), *own)


def _mounts_of_job(job: JobSpec) -> Iterator[Mount]:
    """The same path inside and outside: `job.json` holds absolute paths."""
    yield Mount(job.run_dir, job.run_dir, False, "run")
    # Both may be one cache: that is one mount.
    datasets = (one.path for one in (job.dataset, job.evaluation_dataset) if one and one.path.startswith("/"))
    for path in dict.fromkeys(datasets):
        yield Mount(path, path, True, "dataset")
    if job.model and job.model.name_or_path.startswith("/"):
        yield Mount(job.model.name_or_path, job.model.name_or_path, True, "model.name_or_path")


def clashes(mounts: Sequence[Mount]) -> Iterator[tuple[Mount, Mount]]:
    """Pairs that claim one place in the container: the earlier, the later."""
    seen: dict[str, Mount] = {}
    for mount in mounts:
        place = str(PurePosixPath(mount.target))
        if place in seen:
            yield seen[place], mount
        seen.setdefault(place, mount)
