"""An experiment's spec as the client sends it: every field known, every value checked before anything is made."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.alias_generators import to_camel

from tunewright.beaker_emulator.quantities import duration_ns, size_bytes
from tunewright.beaker_emulator.refusals import InvalidRequest

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Nanoseconds = Annotated[int, BeforeValidator(duration_ns), Field(ge=0)]
Priority = Literal["low", "normal", "high", "urgent", "immediate"]


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, strict=True)


_M = TypeVar("_M", bound=_Spec)


class ImageSource(_Spec):
    """Where the image comes from: one of the two."""

    beaker: str | None = None
    docker: str | None = None

    @model_validator(mode="after")
    def _one(self) -> ImageSource:
        return _exactly_one(self, ("beaker", "docker"))


class EnvVar(_Spec):
    """A variable: its value, or the secret that holds it."""

    name: str
    value: str | None = None
    secret: str | None = None

    @model_validator(mode="after")
    def _one(self) -> EnvVar:
        if not _VARIABLE.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name of an environment variable")
        if self.value is not None and self.secret is not None:
            raise ValueError(f"environment variable {self.name!r} has a value and a secret")
        return self


class DataSource(_Spec):
    """What is mounted: one of these."""

    beaker: str | None = None
    host_path: str | None = None
    weka: str | None = None
    result: str | None = None
    secret: str | None = None
    volume: str | None = None

    @model_validator(mode="after")
    def _one(self) -> DataSource:
        return _exactly_one(self, ("beaker", "host_path", "weka", "result", "secret", "volume"))


class DataMount(_Spec):
    """A source at a path of the task."""

    source: DataSource
    mount_path: str
    sub_path: str | None = None
    mode: Literal["readonly", "readwrite"] | None = None

    @model_validator(mode="after")
    def _can_be_mounted(self) -> DataMount:
        _absolute(self.mount_path, "mountPath")
        if self.sub_path is not None and (self.sub_path.startswith("/") or ".." in self.sub_path.split("/")):
            raise ValueError(f"subPath {self.sub_path!r} leads out of the source")
        only_read = self.source.host_path is None and self.source.weka is None and self.source.volume is None
        if only_read and self.mode == "readwrite":
            raise ValueError("datasets, results and secrets can only be mounted readonly")
        if self.mode == "readonly" and (self.source.host_path is not None or self.source.weka is not None):
            raise ValueError("host paths and weka buckets can only be mounted readwrite")
        return self


class ResultSpec(_Spec):
    """Where the task leaves what is kept."""

    path: str

    @field_validator("path")
    @classmethod
    def _is_absolute(cls, path: str) -> str:
        return _absolute(path, "path")


class Resources(_Spec):
    """What the task needs on its node."""

    cpu_count: float | None = Field(default=None, gt=0)
    gpu_count: int | None = Field(default=None, ge=0)
    memory: str | None = None
    shared_memory: str | None = None

    @field_validator("memory", "shared_memory")
    @classmethod
    def _is_a_size(cls, text: str | None) -> str | None:
        if text is not None:
            size_bytes(text)
        return text


class Context(_Spec):
    """How the task is scheduled."""

    cluster: str | None = None
    priority: Priority | None = None
    preemptible: bool | None = None
    min_runtime: Nanoseconds | None = None
    auto_resume: bool | None = None

    @model_validator(mode="after")
    def _old_or_new(self) -> Context:
        if self.preemptible is not None and (self.min_runtime is not None or self.auto_resume is not None):
            raise ValueError("preemptible is deprecated and cannot stand beside minRuntime or autoResume")
        return self

    @property
    def minimum_runtime_ns(self) -> int | None:
        """How long a job is safe from preemption; None: for ever."""
        if self.preemptible is not None:
            return 0 if self.preemptible else None
        if self.min_runtime is not None:
            return self.min_runtime
        return 0 if self.auto_resume else None

    @property
    def resumes(self) -> bool:
        """Whether a preempted job is followed by another."""
        return bool(self.preemptible or self.auto_resume)


class Constraints(_Spec):
    """Where the task may run."""

    cluster: list[str] | None = None
    hostname: list[str] | None = None


class TaskSpec(_Spec):
    """One task, or one for each replica."""

    image: ImageSource
    context: Context
    result: ResultSpec | None = None
    constraints: Constraints | None = None
    name: str | None = None
    command: list[str] | None = None
    arguments: list[str] | None = None
    env_vars: list[EnvVar] | None = None
    datasets: list[DataMount] | None = None
    resources: Resources | None = None
    host_networking: bool = False
    replicas: int | None = Field(default=None, ge=1)
    leader_selection: bool | None = None
    propagate_failure: bool | None = None
    propagate_preemption: bool | None = None
    synchronized_start_timeout: Nanoseconds | None = None
    timeout: Nanoseconds | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> TaskSpec:
        if self.leader_selection and (self.replicas is None or not self.host_networking):
            raise ValueError("leaderSelection needs replicas and hostNetworking")
        if self.synchronized_start_timeout is not None and self.replicas is None:
            raise ValueError("synchronizedStartTimeout needs replicas")
        if self.context.cluster is not None and self.constraints is not None and self.constraints.cluster:
            raise ValueError("context.cluster and constraints.cluster are both given")
        _no_twice([variable.name for variable in self.env_vars or ()], "environment variable")
        _no_twice([mount.mount_path for mount in self.datasets or ()], "mountPath")
        return self

    @property
    def clusters(self) -> list[str]:
        """The clusters it names, in either place."""
        if self.context.cluster is not None:
            return [self.context.cluster]
        return list((self.constraints and self.constraints.cluster) or ())

    @property
    def hostnames(self) -> list[str]:
        """The nodes it names."""
        return list((self.constraints and self.constraints.hostname) or ())

    @property
    def needs(self) -> list[str]:
        """Names of the tasks whose results it mounts."""
        return [mount.source.result for mount in self.datasets or () if mount.source.result is not None]


class RetrySpec(_Spec):
    """How often a task that failed is started again."""

    allowed_task_retries: int | None = Field(default=None, ge=0)


class ExperimentSpec(_Spec):
    """The whole experiment."""

    version: Literal["v2", "v2-alpha", "v2_alpha"]
    tasks: list[TaskSpec] = Field(min_length=1)
    description: str | None = None
    budget: str | None = None
    groups: list[str] | None = None
    retry: RetrySpec | None = None

    @model_validator(mode="after")
    def _tasks_know_each_other(self) -> ExperimentSpec:
        names = [task.name for task in self.tasks if task.name is not None]
        _no_twice(names, "task")
        for position, task in enumerate(self.tasks):
            earlier = {other.name for other in self.tasks[:position]}
            for needed in task.needs:
                if needed not in earlier:
                    raise ValueError(f"tasks.{position} mounts the result of {needed!r}, which is no earlier task")
        return self


def read_spec(document: Any) -> ExperimentSpec:
    """The spec of a JSON document. InvalidRequest names the first field that is wrong."""
    try:
        return ExperimentSpec.model_validate(document)
    except ValidationError as error:
        raise InvalidRequest(f"invalid experiment spec: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    said = "unknown field" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
    return f"{where}: {said}" if where else said


def _exactly_one(spec: _M, fields: tuple[str, ...]) -> _M:
    given = [to_camel(field) for field in fields if getattr(spec, field) is not None]
    if len(given) != 1:
        allowed = ", ".join(to_camel(field) for field in fields)
        raise ValueError(f"exactly one of {allowed} must be given, not {', '.join(given) or 'none'}")
    return spec


def _absolute(path: str, field: str) -> str:
    if not path.startswith("/") or path == "/" or ".." in path.split("/"):
        raise ValueError(f"{field} {path!r} is not an absolute path below /")
    return path


def _no_twice(names: list[str], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{what} {name!r} is given twice")
