"""From a job to what SageMaker gets: the request of CreateTrainingJob. Pure.

Only the submission knows its key: it is put in the place of `<key>`, at the end of the job's name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from tunewright.clusters.sagemaker.options import Channel, SageMakerOptions
from tunewright.clusters.sagemaker.start_program import BOOT, SOURCE, in_pieces
from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.contracts.files import json_text
from tunewright.contracts.job_problems import TOLD_VARIABLES, argument_problems, image_problems, variable_problems
from tunewright.contracts.jobs import JobSpec, PlannedFile, SubmissionPlan
from tunewright.contracts.spec import canonical_json, digest_of

REQUEST_FILE = "training-job.json"
JOB_FILE = "start.json"
KEY = "<key>"
_KEY_DIGITS = 16
_NAME_CHARACTERS = 63
_MAX_HYPERPARAMETERS = 100
_MAX_RETRIES = 30
_IN_A_REGISTRY = re.compile(r"[^/@]+\.[^/@]+/[^@]+@sha256:[0-9a-f]{64}")


def plan_training_job(job: JobSpec, options: SageMakerOptions) -> SubmissionPlan:
    """The plan of `job`. Secrets stand in it by name. Raises InvalidExperiment for what SageMaker cannot do.

    `training-job.json` is the request; `start.json` is for people, and for the submission: the request carries it in
    pieces.
    """
    start = _start_document(job, options)
    pieces = {**in_pieces("program", SOURCE.encode()), **in_pieces("job", canonical_json(start).encode())}
    if problems := [*_problems(job, options), *_size_problems(pieces)]:
        raise InvalidExperiment.from_problems("cluster `sagemaker`", problems)
    files = (
        PlannedFile(name=REQUEST_FILE, text=json_text(_request(job, options, pieces))),
        PlannedFile(name=JOB_FILE, text=json_text({**start, "region": options.region})),
    )
    return SubmissionPlan(cluster="sagemaker", run=job.run, files=files)


def with_key(name: str, run_dir: str, key: str) -> str:
    """The job's name: SageMaker takes each once in an account and a region, so that one key has one job."""
    digest = hashlib.sha256(f"{run_dir}\0{key}".encode()).hexdigest()
    return name.replace(KEY, digest[:_KEY_DIGITS])


def _planned_name(run: str) -> str:
    """Letters, digits and single hyphens, 63 characters at most once the key's digest is there."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", run).strip("-")
    return f"{words[: _NAME_CHARACTERS - _KEY_DIGITS - 1].rstrip('-')}-{KEY}"


def _start_document(job: JobSpec, options: SageMakerOptions) -> dict[str, Any]:
    """What the start program is told."""
    return {
        "command": list(job.command),
        "variables": dict(sorted(job.variables.items())),
        "secrets": dict(sorted(job.secrets.items())),
        "run_dir": job.run_dir,
        "nodes": job.resources.nodes,
        "max_retries": job.max_retries,
        "links": {channel.at: channel.name for channel in options.channels if channel.at},
        "files": _run_files(job),
    }


def _run_files(job: JobSpec) -> dict[str, Any]:
    """What the trainer and the record read of the run's directory: no disk of this machine is there."""
    files = {
        "job.json": job,
        "environment.json": job.environment,
        "dataset.json": job.dataset,
        "evaluation_dataset.json": job.evaluation_dataset,
    }
    documents = {name: value.to_document() for name, value in files.items() if value is not None}
    if job.experiment is not None:
        experiment = job.experiment.to_document()
        documents["resolved.json"] = {**experiment, "digest": digest_of(experiment)}
    return documents


def _request(job: JobSpec, options: SageMakerOptions, pieces: Mapping[str, str]) -> dict[str, Any]:
    """The request of CreateTrainingJob."""
    output = f"{options.output_s3_uri.rstrip('/')}/{job.run}"
    request: dict[str, Any] = {
        "TrainingJobName": _planned_name(job.run),
        "AlgorithmSpecification": {
            "TrainingImage": _image(job, options),
            "TrainingInputMode": "File",
            "ContainerEntrypoint": [options.python, "-c", BOOT],
            "ContainerArguments": ["/opt/ml"],
        },
        "HyperParameters": dict(pieces),
        "RoleArn": options.role_arn,
        "OutputDataConfig": {"S3OutputPath": f"{output}/output"},
        "CheckpointConfig": {"S3Uri": f"{output}/run", "LocalPath": "/opt/ml/checkpoints"},
        "ResourceConfig": _resources(job, options),
        "StoppingCondition": _limits(options),
        "Tags": _tags(job, options),
        "EnableManagedSpotTraining": options.spot,
        "EnableInterContainerTrafficEncryption": options.encrypt_between_nodes,
    }
    if options.channels:
        request["InputDataConfig"] = [_channel(channel) for channel in options.channels]
    if options.subnets:
        request["VpcConfig"] = {
            "SecurityGroupIds": list(options.security_group_ids),
            "Subnets": list(options.subnets),
        }
    if job.max_retries:
        request["RetryStrategy"] = {"MaximumRetryAttempts": min(job.max_retries, _MAX_RETRIES)}
    return request


def _image(job: JobSpec, options: SageMakerOptions) -> str:
    return job.environment.reference if job.environment else options.image or ""


def _resources(job: JobSpec, options: SageMakerOptions) -> dict[str, Any]:
    resources: dict[str, Any] = {
        "InstanceType": options.instance_type,
        "InstanceCount": job.resources.nodes,
        "VolumeSizeInGB": options.volume_gb,
    }
    if options.keep_alive_seconds is not None:
        resources["KeepAlivePeriodInSeconds"] = options.keep_alive_seconds
    return resources


def _limits(options: SageMakerOptions) -> dict[str, int]:
    limits = {"MaxRuntimeInSeconds": options.max_runtime_seconds}
    if options.spot:
        limits["MaxWaitTimeInSeconds"] = options.max_wait_seconds or 2 * options.max_runtime_seconds
    return limits


def _tags(job: JobSpec, options: SageMakerOptions) -> list[dict[str, str]]:
    own = {"tunewright:run": job.run}
    if job.origin:
        own["tunewright:commit"] = job.origin.code.commit
    return [{"Key": key, "Value": value} for key, value in sorted({**options.tags, **own}.items())]


def _channel(channel: Channel) -> dict[str, Any]:
    if channel.s3_uri is not None:
        source = {
            "S3DataSource": {
                "S3DataType": "S3Prefix",
                "S3Uri": channel.s3_uri,
                "S3DataDistributionType": "FullyReplicated",
            }
        }
        mode = "FastFile" if channel.fast_file else "File"
        return {"ChannelName": channel.name, "DataSource": source, "InputMode": mode}
    mounted = {
        "FileSystemId": channel.file_system_id,
        "FileSystemType": channel.file_system_type,
        "FileSystemAccessMode": "rw" if channel.writable else "ro",
        "DirectoryPath": channel.directory,
    }
    return {"ChannelName": channel.name, "DataSource": {"FileSystemDataSource": mounted}}


def _problems(job: JobSpec, options: SageMakerOptions) -> Iterator[Problem]:
    yield from _image_problems(job, options)
    yield from argument_problems(job)
    yield from variable_problems(job, "process", TOLD_VARIABLES.__contains__, only_plain_names=False)
    yield from _place_problems(job, options)
    if job.max_retries > _MAX_RETRIES:
        yield Problem("cluster.max_retries", f"SageMaker allows 0 to {_MAX_RETRIES}, got {job.max_retries}")


def _image_problems(job: JobSpec, options: SageMakerOptions) -> Iterator[Problem]:
    yield from image_problems(job, "sagemaker", options.image)
    reference = job.environment.reference if job.environment and job.environment.kind == "image" else None
    if reference is not None and not (_IN_A_REGISTRY.fullmatch(reference) and len(reference) <= 255):
        message = f"SageMaker pulls images from a registry, got {reference!r}"
        hint = (
            "push it to ECR, and name it ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME@sha256:..., 255 characters at most"
        )
        yield Problem("environment.image", message, hint)


def _place_problems(job: JobSpec, options: SageMakerOptions) -> Iterator[Problem]:
    """What lies on a disk of this machine, where no node would find it."""
    places = {"dataset": job.dataset and job.dataset.path, "model.name_or_path": job.model and job.model.name_or_path}
    places["evaluation"] = job.evaluation_dataset and job.evaluation_dataset.path
    for field, path in places.items():
        if path and path.startswith("/") and not _is_given(path, options):
            message = f"no node sees {path}, which is on this machine"
            hint = (
                "copy it to S3 or to a shared file system, and add a channel with that path, or one above it, as `at`"
            )
            yield Problem(field, message, hint)
    if job.resources.nodes > 1 and job.experiment is not None and not _is_given(job.run_dir, options, writable=True):
        message = f"{job.resources.nodes} nodes must share the run's directory {job.run_dir}"
        hint = "add a channel of a file system with `writable = true` and this directory, or one above it, as `at`"
        yield Problem("cluster.options.channels", message, hint)


def _is_given(path: str, options: SageMakerOptions, writable: bool = False) -> bool:
    """Whether a channel puts `path` into the job."""
    channels = (channel for channel in options.channels if channel.writable or not writable)
    return any(channel.at and PurePosixPath(path).is_relative_to(channel.at) for channel in channels)


def _size_problems(pieces: Mapping[str, str]) -> Iterator[Problem]:
    if len(pieces) > _MAX_HYPERPARAMETERS:
        message = f"command, variables and experiment are {sum(map(len, pieces.values())):,} characters in base64"
        yield Problem("cluster", f"{message}; SageMaker takes about 240,000 with a job", "put what is long into a file")
