"""A compose file that is a job: what development, CI and production start is one digest, with the same arguments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunewright.contracts.errors import UsageError
from tunewright.contracts.jobs import JobSpec

_SHARED_MEMORY_GIB = 4
"""As the docker cluster has it: Docker's own 64 MiB end data loaders with a bus error."""

_HEADER = """# {run}: the same image, command, variables and mounts as the run's job. Made by `env-builder compose`.
# Secrets are variables of whoever starts it; `docker compose up` refuses without them.
"""


def compose_text(job: JobSpec) -> str:
    """The file. Raises UsageError for a job that runs in no image."""
    import yaml

    document = compose_document(job)
    text: str = yaml.safe_dump(document, sort_keys=False, width=120, allow_unicode=True)
    return _HEADER.format(run=job.run) + text


def compose_document(job: JobSpec) -> dict[str, Any]:
    """What the file holds: one service for each node, named as the nodes are."""
    if job.environment is None or job.environment.kind != "image":
        kind = job.environment.kind if job.environment else "nothing"
        raise UsageError(f"run `{job.run}` runs in {kind}: only a job in an image has a compose file")
    nodes = range(job.resources.nodes)
    return {"name": _project_name(job.run), "services": {f"node-{rank}": _service(job, rank) for rank in nodes}}


def _service(job: JobSpec, rank: int) -> dict[str, Any]:
    assert job.environment is not None
    service: dict[str, Any] = {
        "image": job.environment.reference,
        "entrypoint": [_escaped(job.command[0])],
        "command": [_escaped(argument) for argument in job.command[1:]],
        "environment": _variables(job, rank),
        "volumes": _volumes(job),
        "working_dir": job.run_dir,
        "init": True,
        "user": "${UID:-10001}:${GID:-10001}",
        "labels": {"ai.tunewright.run": job.run, "ai.tunewright.commit": job.environment.commit or ""},
        **_limits(_options(job)),
    }
    return service


def _limits(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the job's cluster options bound, in compose's words. Without any: the docker cluster's own shared memory."""
    limits: dict[str, Any] = {"shm_size": _bytes_text(options.get("shm_gib") or _SHARED_MEMORY_GIB)}
    if memory_gib := options.get("memory_gib"):
        limits["mem_limit"] = limits["memswap_limit"] = _bytes_text(memory_gib)
    if cpus := options.get("cpus"):
        limits["cpus"] = cpus
    if (gpus := options.get("gpus", "none")) != "none":
        ids = {"device_ids": [str(one) for one in gpus]} if isinstance(gpus, list | tuple) else {"count": gpus}
        device = {"driver": "nvidia", "capabilities": ["gpu"], **ids}
        limits["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
    return limits


def _options(job: JobSpec) -> Mapping[str, Any]:
    return job.experiment.cluster.options if job.experiment else {}


def _bytes_text(gib: float) -> str:
    return f"{int(gib * 2**30)}b"


def _variables(job: JobSpec, rank: int) -> dict[str, str]:
    plain = {name: _escaped(value) for name, value in sorted(job.variables.items())}
    own = {"HOME": "/tmp", "USER": "tunewright", "TUNEWRIGHT_ATTEMPT": "0"}
    if job.resources.nodes > 1:
        own |= {
            "TUNEWRIGHT_NODE_RANK": str(rank),
            "TUNEWRIGHT_MASTER_ADDRESS": "node-0",
            "TUNEWRIGHT_MASTER_PORT": "29500",
        }
    secrets = {variable: f"${{{variable}:?secret `{name}`}}" for variable, name in sorted(job.secrets.items())}
    return {**own, **plain, **secrets}


def _volumes(job: JobSpec) -> list[dict[str, Any]]:
    """The run's directory to write to; datasets and model to read, at the places the job knows them by."""
    # A dataset at a URL is fetched by the job itself.
    datasets = (one.path for one in (job.dataset, job.evaluation_dataset) if one)
    read = [path for path in datasets if Path(path).is_absolute()]
    if job.model and Path(job.model.name_or_path).is_absolute():
        read.append(job.model.name_or_path)
    mounts = [(job.run_dir, False), *((path, True) for path in dict.fromkeys(read) if path != job.run_dir)]
    own = [
        {"type": "bind", "source": _escaped(path), "target": _escaped(path), "read_only": read_only}
        for path, read_only in mounts
    ]
    return [*own, *(_users_mount(text) for text in _options(job).get("mounts") or ())]


def _users_mount(text: str) -> dict[str, Any]:
    """`HOST:CONTAINER` or `HOST:CONTAINER:ro`, as the docker cluster takes it."""
    source, _, target = text.removesuffix(":ro").partition(":")
    return {"type": "bind", "source": _escaped(source), "target": _escaped(target), "read_only": text.endswith(":ro")}


def _escaped(text: str) -> str:
    """Compose would fill in `$NAME`; `$$` is a dollar."""
    return text.replace("$", "$$")


def _project_name(run: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in run.lower())
