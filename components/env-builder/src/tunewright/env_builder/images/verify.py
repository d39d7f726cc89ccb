"""Proving that an image is what its lock, labels and record say: asked inside, without a network, as its own user."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any

from tunewright.contracts.errors import IntegrityError, Unavailable
from tunewright.contracts.spec import Spec
from tunewright.env_builder.images import labels, probe
from tunewright.env_builder.images.daemon import Daemon, LocalImage
from tunewright.env_builder.images.record import BuiltImage
from tunewright.env_builder.locks.requirement_files import lock_entries
from tunewright.env_builder.models.offline import offline_problems

_TIMEOUT_SECONDS = 900
_NOT_LOCKED = frozenset({"pip", "setuptools", "wheel"})
"""What an environment may bring by itself."""

JsonObject = dict[str, Any]


class Check(Spec):
    """One thing that was looked at."""

    name: str
    """What, in two or three words."""

    ok: bool
    """Whether it is as it must be."""

    detail: str
    """What was found; where it is wrong, everything that is wrong."""


class ImageReport(Spec):
    """Everything that was looked at in one image."""

    image_id: str
    reference: str
    checks: tuple[Check, ...]
    packages: dict[str, str]
    """Each distribution in the image and its version."""

    models: tuple[JsonObject, ...] = ()
    gpu: JsonObject = {}

    @property
    def failed(self) -> tuple[Check, ...]:
        """What is not as it must be."""
        return tuple(check for check in self.checks if not check.ok)


def verify_image(daemon: Daemon, image: LocalImage, reference: str, record: BuiltImage | None) -> ImageReport:
    """Look at everything. Raises Unavailable where the image cannot be asked."""
    found = ask_image(daemon, image.image_id, {"import": True, "models": True})
    checks = [
        *_identity_checks(image, record),
        _user_check(found),
        Check(name="network", ok=found["network"] == "off", detail=str(found["network"])),
        *lock_checks(found["lock"], image.labels.get(labels.LOCK_DIGEST, ""), found["packages"]),
        _import_check(found["failed_imports"]),
        _gpu_check(found["gpu"]),
        *_offline_checks(found),
        *(_model_check(model) for model in found["models"]),
    ]
    return ImageReport(
        image_id=image.image_id,
        reference=reference,
        checks=tuple(checks),
        packages=found["packages"],
        models=tuple(found["models"]),
        gpu=found["gpu"],
    )


def refuse_failed(report: ImageReport) -> None:
    """Raise IntegrityError naming every check that failed."""
    if report.failed:
        lines = "".join(f"\n  {check.name}: {check.detail}" for check in report.failed)
        raise IntegrityError(f"{report.reference} is not what it should be:{lines}", "build it again from its commit")


def ask_image(daemon: Daemon, image_id: str, wanted: Mapping[str, bool]) -> JsonObject:
    """What the probe prints inside the image, which has no network and runs as the user it names."""
    from docker.errors import APIError

    script = inspect.getsource(probe)
    container = daemon.client.containers.create(
        image_id,
        entrypoint=["/app/bin/python"],
        command=["-I", "-c", script, json.dumps(dict(wanted))],
        network_mode="none",
        init=True,
        read_only=True,
        tmpfs={"/tmp": "mode=1777"},
    )
    try:
        container.start()
        code = int(container.wait(timeout=_TIMEOUT_SECONDS)["StatusCode"])
        out, err = container.logs(stdout=True, stderr=False), container.logs(stdout=False, stderr=True)
    except APIError as error:
        raise Unavailable(f"the image cannot be started: {error.explanation or error}") from None
    finally:
        container.remove(force=True)
    if code != 0:
        raise Unavailable(f"the image cannot be looked into: its Python ended with {code}: {err.decode()[-500:]}")
    document: JsonObject = json.loads(out)
    return document


def _identity_checks(image: LocalImage, record: BuiltImage | None) -> Iterator[Check]:
    revision = image.labels.get(labels.REVISION, "")
    yield Check(name="revision", ok=bool(revision), detail=revision or "the image does not say its commit")
    if record is None:
        yield Check(name="record", ok=True, detail="none here: judged by the image alone")
        return
    wrong = [
        f"{what} is {is_now}, recorded {was}"
        for what, is_now, was in (
            ("image id", image.image_id, record.image_id),
            ("key", image.key, record.key),
            ("layers", list(image.layers), list(record.layers)),
        )
        if is_now != was
    ]
    yield Check(name="record", ok=not wrong, detail="; ".join(wrong) or f"as recorded {record.built_at}")


def _user_check(found: JsonObject) -> Check:
    uid = found["user"]["uid"]
    return Check(name="user", ok=uid != 0, detail=f"uid {uid}" if uid else "runs as root")


def lock_checks(lock: str | None, digest: str, packages: Mapping[str, str]) -> Iterator[Check]:
    """Whether the image has its lock, and exactly what that says."""
    if lock is None:
        yield Check(name="lock", ok=False, detail="the image has no /app/requirements.lock")
        return
    actual = f"sha256:{hashlib.sha256(lock.encode()).hexdigest()}"
    yield Check(name="lock", ok=actual == digest, detail=actual if actual == digest else f"{actual}, labelled {digest}")
    pinned = {entry.name: entry.version for entry in lock_entries(lock)}
    wrong = [
        f"{name} {version}, locked {pinned.get(name, 'nowhere')}"
        for name, version in sorted(packages.items())
        if not _is_ours(name) and name not in _NOT_LOCKED and pinned.get(name) != version
    ]
    third_party = sum(1 for name in packages if name in pinned)
    yield Check(name="packages", ok=not wrong, detail="; ".join(wrong) or f"{third_party} packages as locked")


def _is_ours(name: str) -> bool:
    return name == "tunewright" or name.startswith("tunewright-")


def _import_check(failed: Mapping[str, str]) -> Check:
    detail = "; ".join(f"{module}: {why}" for module, why in failed.items()) or "every module can be imported"
    return Check(name="imports", ok=not failed, detail=detail)


def _gpu_check(gpu: JsonObject) -> Check:
    if gpu["seen"]:
        return Check(name="gpu", ok=True, detail=f"{gpu['seen']}: {', '.join(gpu['names'])}, CUDA {gpu['cuda']}")
    return Check(name="gpu", ok=True, detail=f"none: {gpu['why']}")


def _offline_checks(found: JsonObject) -> Iterator[Check]:
    if not found["models"] and "HF_HUB_OFFLINE" not in found["variables"]:
        return
    problems = offline_problems(found["variables"])
    yield Check(name="offline", ok=not problems, detail="; ".join(problems) or "every variable is set")


def _model_check(model: JsonObject) -> Check:
    name = f"{model['name']}@{model['revision'][:12]}" if model["revision"] else model["name"]
    detail = f"{name}: {model['parameters']:,} parameters, loads" if model["loads"] else f"{name}: {model['why']}"
    return Check(name="model", ok=model["loads"], detail=detail)
