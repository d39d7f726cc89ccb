"""What the server refuses: unknown fields, wrong types, invalid names, and fields of a Job that exclude each other."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
CHANGEABLE = {"activeDeadlineSeconds", "backoffLimit", "parallelism", "suspend", "ttlSecondsAfterFinished"}
"""Fields of a Job's spec that may change after it was made."""

_ANNOTATIONS_BYTES = 256 << 10


def versions() -> list[str]:
    """The versions of Kubernetes whose schemas are bundled, oldest first."""
    from kubernetes_validate.utils import all_versions

    return list(dict.fromkeys(all_versions()))


def schema_problems(document: dict[str, Any], version: str) -> list[str]:
    """What the bundled schema of `version` says, in its strict form: unknown fields are errors."""
    group, _, number = document["apiVersion"].rpartition("/")
    name = "-".join(filter(None, (document["kind"].lower(), group.partition(".")[0], number)))
    found = _validator(name, version).iter_errors(document)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


@functools.cache
def _validator(name: str, version: str) -> Any:
    """What `kubernetes_validate.validate` makes anew for each call, which takes it a second."""
    from kubernetes_validate import utils

    folder = f"kubernetes-json-schema/v{version}-local-strict"
    schema = utils.schema_contents(f"{folder}/{name}.json", version)
    parts = [utils.Resource.from_contents(schema), utils.Resource.from_contents(_definitions(version))]
    return utils.jsonschema.Draft202012Validator(schema, registry=parts @ utils.Registry())


@functools.cache
def _definitions(version: str) -> Any:
    from kubernetes_validate import utils

    return utils.schema_contents(f"kubernetes-json-schema/v{version}-local-strict/_definitions.json", version)


def problems(plural: str, document: dict[str, Any]) -> list[str]:
    """What schemas do not say."""
    found = [*_names(plural, document["metadata"])]
    if plural == "jobs":
        found += [*_job(document["spec"], document["metadata"]["name"])]
    return found


def _names(plural: str, metadata: dict[str, Any]) -> Iterator[str]:
    name = metadata["name"]
    longest = 63 if plural in ("jobs", "services") else 253
    pattern = LABEL_NAME if plural == "services" else SUBDOMAIN
    if not pattern.fullmatch(name) or len(name) > longest:
        yield f"metadata.name: Invalid value: {name!r}"
    yield from _label_problems("metadata", metadata)


def _label_problems(where: str, metadata: dict[str, Any]) -> Iterator[str]:
    for key, value in (metadata.get("labels") or {}).items():
        if not LABEL_KEY.fullmatch(key) or not LABEL_VALUE.fullmatch(value):
            yield f"{where}.labels: Invalid value: {key!r}: {value!r}"
    annotations = metadata.get("annotations") or {}
    for key in annotations:
        if not LABEL_KEY.fullmatch(key):
            yield f"{where}.annotations: Invalid value: {key!r}"
    if sum(len(key) + len(value.encode()) for key, value in annotations.items()) > _ANNOTATIONS_BYTES:
        yield f"{where}.annotations: Too long: must have at most {_ANNOTATIONS_BYTES} bytes"


def _job(spec: dict[str, Any], name: str) -> Iterator[str]:
    template = spec["template"]
    yield from _label_problems("spec.template.metadata", template.get("metadata") or {})
    if template["spec"].get("restartPolicy") not in ("Never", "OnFailure"):
        yield "spec.template.spec.restartPolicy: Required value: valid values: OnFailure, Never"
    if spec.get("podFailurePolicy"):
        if template["spec"].get("restartPolicy") != "Never":
            yield "spec.template.spec.restartPolicy: only `Never` is supported when `podFailurePolicy` is specified"
        if spec.get("podReplacementPolicy", "Failed") != "Failed":
            yield "spec.podReplacementPolicy: Unsupported value: with a podFailurePolicy it must be Failed"
        for rule in spec["podFailurePolicy"]["rules"]:
            codes = rule.get("onExitCodes")
            if bool(codes) is bool(rule.get("onPodConditions")):
                yield "spec.podFailurePolicy.rules: specifying one of onExitCodes and onPodConditions is required"
            if codes and (codes["values"] != sorted(set(codes["values"])) or 0 in codes["values"]):
                yield "spec.podFailurePolicy.rules.onExitCodes.values: must be ordered, unique, and without 0 for In"
    if spec.get("completionMode") == "Indexed":
        if len(f"{name}-{spec['completions'] - 1}") > 63:
            yield f"metadata.name: Invalid value: {name!r}: with its index it must be no more than 63 characters"
    elif "backoffLimitPerIndex" in spec:
        yield "spec.backoffLimitPerIndex: Invalid value: requires indexed completion mode"
    if "maxFailedIndexes" in spec and "backoffLimitPerIndex" not in spec:
        yield "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified"


def immutable_problems(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Fields of a Job's spec that were changed and may not be."""
    keys = (old.keys() | new.keys()) - CHANGEABLE
    return [f"spec.{key}: field is immutable" for key in sorted(keys) if old.get(key) != new.get(key)]
