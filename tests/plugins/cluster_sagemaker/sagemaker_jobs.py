"""Jobs, options and AWS's own constraints for the tests of cluster `sagemaker`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from botocore.session import Session  # pants: no-infer-dep  # it comes with boto3

from tunewright.clusters.sagemaker.options import SageMakerOptions
from tunewright.contracts.jobs import JobSpec

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/trainer@sha256:" + "0" * 64


def job(**fields: Any) -> JobSpec:
    return JobSpec(**{"run": "r", "run_dir": "/home/runs/r", "command": ("python", "-c", "pass"), **fields})


def options(**fields: Any) -> SageMakerOptions:
    return SageMakerOptions.model_validate({
        "role_arn": "arn:aws:iam::123456789012:role/training",
        "output_s3_uri": "s3://bucket/runs",
        "instance_type": "ml.m5.large",
        "image": IMAGE,
        **fields,
    })  # fmt: skip


@cache
def model() -> Any:
    """botocore's model of SageMaker."""
    return Session().get_service_model("sagemaker")


def broken_constraints(value: Any, shape: Any, path: str = "") -> Iterator[str]:
    """What AWS would refuse of `value`: lengths, ranges, patterns and enumerations, which botocore does not look at."""
    bounds = shape.metadata
    size = len(value) if isinstance(value, (str, list, dict)) else value
    if not bounds.get("min", size) <= size <= bounds.get("max", size):
        yield f"{path}: {size} is not within {bounds.get('min')} and {bounds.get('max')}"
    if isinstance(value, str):
        pattern = bounds.get("pattern", "").replace(r"\p{L}\p{Z}\p{N}", r"\w ")
        if pattern and not re.fullmatch(pattern, value):
            yield f"{path}: {value!r} does not match {pattern}"
        if getattr(shape, "enum", []) and value not in shape.enum:
            yield f"{path}: {value!r} is not one of {shape.enum}"
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from broken_constraints(one, shape.member, f"{path}[{number}]")
    elif isinstance(value, dict):
        for key, one in value.items():
            if shape.type_name == "map":
                yield from broken_constraints(key, shape.key, f"{path}.{key}")
            inner = shape.value if shape.type_name == "map" else shape.members[key]
            yield from broken_constraints(one, inner, f"{path}.{key}")
