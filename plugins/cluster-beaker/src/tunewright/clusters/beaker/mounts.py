"""What of Beaker's storage a job sees: Weka buckets, paths of the host, datasets, volumes, secrets as files. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

KINDS = {"weka": "weka", "host": "hostPath", "dataset": "beaker", "volume": "volume", "secret": "secret"}
"""Our word to the field of Beaker's `source`."""

WRITABLE_KINDS = ("weka", "host", "volume")
"""Where a job can write. Datasets and secrets are read-only."""

_FORM = "KIND:SOURCE:TARGET or KIND:SOURCE:TARGET:ro"


@dataclass(frozen=True)
class Mount:
    """A piece of storage, and where the job has it."""

    kind: str
    source: str
    target: str
    sub_path: str = ""
    is_read_only: bool = False

    @property
    def is_writable(self) -> bool:
        """Whether a job may write there."""
        return self.kind in WRITABLE_KINDS and not self.is_read_only

    def holds(self, path: str) -> bool:
        """Whether `path` lies in it."""
        return PurePosixPath(path).is_relative_to(self.target)

    def to_beaker(self) -> dict[str, object]:
        """In Beaker's words."""
        mount: dict[str, object] = {"source": {KINDS[self.kind]: self.source}, "mountPath": self.target}
        if self.sub_path:
            mount["subPath"] = self.sub_path
        if self.is_read_only and self.kind in WRITABLE_KINDS:
            mount["mode"] = "readonly"
        return mount


def parse_mount(text: str) -> Mount:
    """`weka:BUCKET:/path`, `host:/path:/path:ro`, `dataset:ID#sub/path:/path`. Raises ValueError in words."""
    parts = text.split(":")
    mode = parts.pop() if len(parts) == 4 and parts[3] in ("ro", "rw") else "rw"
    if len(parts) != 3 or parts[0] not in KINDS:
        raise ValueError(f"must be {_FORM}, KIND one of {', '.join(KINDS)}, got {text!r}")
    kind, source, target = parts
    source, _, sub_path = source.partition("#")
    if not source or (kind == "host" and not _is_clean(source)):
        raise ValueError(f"has no source that could be mounted: {text!r}")
    if not _is_clean(target):
        raise ValueError(f"the target must be absolute, without `..` and not `/`, got {target!r}")
    return Mount(kind, source, target, sub_path, mode == "ro")


def _is_clean(place: str) -> bool:
    path = PurePosixPath(place)
    return path.is_absolute() and ".." not in path.parts and len(path.parts) > 1 and "\0" not in place


def holder_of(path: str, mounts: Sequence[Mount]) -> Mount | None:
    """The mount that `path` lies in, the innermost one. None: the nodes do not see it."""
    holders = [mount for mount in mounts if mount.holds(path)]
    return max(holders, key=lambda mount: len(PurePosixPath(mount.target).parts), default=None)


def clashes(mounts: Sequence[Mount]) -> Iterator[tuple[Mount, Mount]]:
    """Pairs that want one target: an earlier and a later one."""
    taken: dict[str, Mount] = {}
    for mount in mounts:
        target = str(PurePosixPath(mount.target))
        if target in taken and taken[target] != mount:
            yield taken[target], mount
        taken.setdefault(target, mount)
