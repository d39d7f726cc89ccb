"""What a job's pods see beside their image: claims, nodes' directories, secrets' files, scratch space. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from tunewright.clusters.kubernetes.names import is_secret_name
from tunewright.contracts.jobs import JobSpec

_FORMS = "claim:NAME[/SUB]:/TARGET[:ro], secret:NAME:/TARGET, scratch:GIB:/TARGET or /NODE/PATH:/TARGET[:ro]"


@dataclass(frozen=True)
class Mount:
    """One thing, and where the container has it."""

    kind: str
    source: str
    target: str
    is_read_only: bool

    def volume(self, name: str) -> dict[str, Any]:
        """The pod's volume."""
        if self.kind == "claim":
            claim = self.source.partition("/")[0]
            return {"name": name, "persistentVolumeClaim": {"claimName": claim}}
        if self.kind == "secret":
            return {"name": name, "secret": {"secretName": self.source, "defaultMode": 0o400}}
        if self.kind == "scratch":
            return {"name": name, "emptyDir": {"sizeLimit": gibibytes(float(self.source))}}
        return {"name": name, "hostPath": {"path": self.source}}

    def volume_mount(self, name: str) -> dict[str, Any]:
        """Where the container has it."""
        mount: dict[str, Any] = {"name": name, "mountPath": self.target}
        sub_path = self.source.partition("/")[2] if self.kind == "claim" else ""
        if sub_path:
            mount["subPath"] = sub_path
        if self.is_read_only:
            mount["readOnly"] = True
        return mount

    def holds(self, path: str) -> bool:
        """Whether `path` lies in it."""
        return PurePosixPath(path).is_relative_to(PurePosixPath(self.target))


def gibibytes(number: float) -> str:
    """A quantity of Kubernetes: mebibytes, so that fractions are whole."""
    return f"{max(1, round(number * 1024))}Mi"


def parse_mount(text: str) -> Mount:
    """One of the four forms. Raises ValueError saying what is wrong with it."""
    parts = text.split(":")
    is_read_only = len(parts) > 2 and parts[-1] == "ro"
    parts = parts[:-1] if len(parts) > 2 and parts[-1] in ("ro", "rw") else parts
    parts = parts if len(parts) != 2 else ["node", *parts]
    if len(parts) != 3 or not _is_source(parts[0], parts[1]):
        raise ValueError(f"must be {_FORMS}, got {text!r}")
    if not _is_clean(parts[2]):
        raise ValueError(f"the target must be absolute, without `..` and not `/`, got {parts[2]!r}")
    return Mount(parts[0], parts[1], parts[2], is_read_only or parts[0] == "secret")


def _is_source(kind: str, source: str) -> bool:
    if kind == "claim":
        name, slash, sub_path = source.partition("/")
        is_path = not slash or (bool(sub_path) and _is_clean(f"/{sub_path}"))
        return is_secret_name(name) and is_path
    if kind == "secret":
        return is_secret_name(source)
    if kind == "scratch":
        return source.replace(".", "", 1).isdecimal() and float(source) > 0
    return kind == "node" and _is_clean(source)


def _is_clean(place: str) -> bool:
    path = PurePosixPath(place)
    return path.is_absolute() and ".." not in path.parts and len(path.parts) > 1 and "\0" not in place


def problems_of(job: JobSpec, mounts: Sequence[Mount]) -> Iterator[tuple[str, str]]:
    """What of the job's files no mount holds, and targets that are there twice: the field and the sentence."""
    kept = [mount for mount in mounts if mount.kind in ("claim", "node") and not mount.is_read_only]
    if not any(mount.holds(job.run_dir) for mount in kept):
        yield "mounts", f"what the job writes to {job.run_dir} would go with its pod: no mount holds it"
    for what, path in _read_paths(job):
        if not any(mount.holds(path) for mount in mounts):
            yield "mounts", f"the {what} {path} is not to be seen in the pod: no mount holds it"
    places = ["/dev/shm", *(str(PurePosixPath(mount.target)) for mount in mounts)]
    for number, place in enumerate(places):
        if place in places[:number]:
            yield f"mounts[{number - 1}]", f"{place} is mounted already"


def _read_paths(job: JobSpec) -> Iterator[tuple[str, str]]:
    datasets = [one.path for one in (job.dataset, job.evaluation_dataset) if one]
    models = [job.model.name_or_path] if job.model else []
    yield from (("dataset", path) for path in dict.fromkeys(datasets) if path.startswith("/"))
    yield from (("model", path) for path in models if path.startswith("/"))
