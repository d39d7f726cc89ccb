"""The plan of a SageMaker job: a request that AWS's own model accepts, and what cannot be done, in words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.validate import ParamValidator  # pants: no-infer-dep  # it comes with boto3

from plugins.cluster_sagemaker.sagemaker_jobs import IMAGE, broken_constraints, job, model, options
from tunewright.clusters.sagemaker.options import SageMakerOptions
from tunewright.clusters.sagemaker.plan import JOB_FILE, REQUEST_FILE, plan_training_job, with_key
from tunewright.clusters.sagemaker.start_program import SOURCE, out_of_pieces
from tunewright.contracts.environments import EnvironmentRef
from tunewright.contracts.errors import InvalidExperiment
from tunewright.contracts.experiment_file import parse_spec
from tunewright.contracts.jobs import JobSpec, ModelReference, Resources

EVERYTHING: dict[str, Any] = {
    "spot": True,
    "volume_gb": 500,
    "max_runtime_seconds": 3600,
    "max_wait_seconds": 7200,
    "subnets": ["subnet-1"],
    "security_group_ids": ["sg-1"],
    "encrypt_between_nodes": True,
    "region": "eu-central-1",
    "tags": {"team": "nlp é"},
    "channels": [
        {"name": "model", "s3_uri": "s3://bucket/model", "fast_file": True, "at": "/models/base"},
        {"name": "home", "file_system_id": "fs-01234567", "directory": "/x/home", "writable": True, "at": "/home"},
    ],
}


def request_of(one: JobSpec, given: SageMakerOptions) -> dict[str, Any]:
    request: dict[str, Any] = json.loads(plan_training_job(one, given).text_of(REQUEST_FILE))
    request["TrainingJobName"] = with_key(request["TrainingJobName"], one.run_dir, "key")
    return request


@pytest.mark.parametrize(
    ("one", "given"),
    [
        (job(), options()),
        (job(run="r" * 63, max_retries=3, resources=Resources(nodes=4)), options(**EVERYTHING)),
        (job(run="2026.11.a_b--c.", command=("x", "é\n'\"$$" * 900), variables={"A": "y" * 9000}), options()),
        (job(), options(keep_alive_seconds=600)),
    ],
)
def test_aws_would_accept_what_is_planned(one: JobSpec, given: SageMakerOptions) -> None:
    request, shape = request_of(one, given), model().operation_model("CreateTrainingJob").input_shape
    assert not ParamValidator().validate(request, shape).generate_report()
    assert not list(broken_constraints(request, shape))


def test_the_constraints_of_aws_are_looked_at() -> None:
    request, shape = request_of(job(), options()), model().operation_model("CreateTrainingJob").input_shape
    request |= {"TrainingJobName": "a_b", "RoleArn": "x"}
    request["HyperParameters"]["big"] = "x" * 2501
    request["ResourceConfig"]["InstanceType"] = "ml.none.large"
    assert [words.partition(":")[0] for words in broken_constraints(request, shape)] == [
        ".TrainingJobName", ".HyperParameters.big", ".RoleArn", ".RoleArn", ".ResourceConfig.InstanceType",
    ]  # fmt: skip


def test_everything_that_was_asked_for_is_in_the_request() -> None:
    request = request_of(job(max_retries=3, resources=Resources(nodes=2)), options(**EVERYTHING))
    assert request["ResourceConfig"] == {"InstanceType": "ml.m5.large", "InstanceCount": 2, "VolumeSizeInGB": 500}
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 7200}
    assert request["EnableManagedSpotTraining"] and request["EnableInterContainerTrafficEncryption"]
    assert request["CheckpointConfig"] == {"S3Uri": "s3://bucket/runs/r/run", "LocalPath": "/opt/ml/checkpoints"}
    assert request["OutputDataConfig"] == {"S3OutputPath": "s3://bucket/runs/r/output"}
    assert request["VpcConfig"] == {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]}
    assert request["RetryStrategy"] == {"MaximumRetryAttempts": 3}
    assert request["AlgorithmSpecification"]["TrainingImage"] == IMAGE
    assert {"Key": "team", "Value": "nlp é"} in request["Tags"]
    model_channel, home_channel = request["InputDataConfig"]
    assert model_channel["DataSource"]["S3DataSource"]["S3Uri"] == "s3://bucket/model"
    assert model_channel["InputMode"] == "FastFile"
    assert home_channel["DataSource"]["FileSystemDataSource"] == {
        "FileSystemId": "fs-01234567", "FileSystemType": "FSxLustre", "FileSystemAccessMode": "rw",
        "DirectoryPath": "/x/home",
    }  # fmt: skip


def test_the_request_carries_the_start_program_and_what_the_plan_shows_of_it() -> None:
    one = job(command=("x", "é\n'", ""), variables={"A": "$$"}, secrets={"TOKEN": "name"})
    plan = plan_training_job(one, options(**EVERYTHING))
    pieces = json.loads(plan.text_of(REQUEST_FILE))["HyperParameters"]
    shown = json.loads(plan.text_of(JOB_FILE))
    assert out_of_pieces("program", pieces).decode() == SOURCE
    assert {**json.loads(out_of_pieces("job", pieces)), "region": "eu-central-1"} == shown
    assert (shown["command"], shown["secrets"]) == (["x", "é\n'", ""], {"TOKEN": "name"})
    assert shown["links"] == {"/models/base": "model", "/home": "home"}
    assert shown["files"]["job.json"] == one.to_document()


def test_a_name_is_the_runs_and_the_keys() -> None:
    names = {with_key("r-<key>", home, key) for home in ("/a/runs/r", "/b/runs/r") for key in ("r-0", "r-1")}
    assert len(names) == 4
    assert all(name.startswith("r-") and len(name) == 18 for name in names)


def test_every_problem_of_a_job_is_named_at_once() -> None:
    broken = job(
        command=("x", "a\0b"),
        variables={"A=B": "1", "C": "\0", "D": "", "TUNEWRIGHT_ATTEMPT": "1"},
        secrets={"D": "s"},
        max_retries=31,
        model=ModelReference(name_or_path="/models/mine"),
        environment=EnvironmentRef(kind="pex", key="0" * 64, reference="/x.pex", command=("x",), commit="c"),
    )
    with pytest.raises(InvalidExperiment) as caught:
        plan_training_job(broken, options())
    assert [problem.path for problem in caught.value.problems] == [
        "environment.kind", "command[1]", "cluster.environment", "cluster.environment.C",
        "cluster.environment.TUNEWRIGHT_ATTEMPT", "cluster.secrets.D", "model.name_or_path", "cluster.max_retries",
    ]  # fmt: skip


def test_an_image_of_this_machine_alone_is_refused() -> None:
    environment = EnvironmentRef(kind="image", key="0" * 64, reference="sha256:" + "0" * 64, command=("x",), commit="c")
    with pytest.raises(InvalidExperiment, match=r"environment\.image: SageMaker pulls images from a registry"):
        plan_training_job(job(environment=environment), options(image=None))


def test_a_model_that_a_channel_brings_is_allowed() -> None:
    base = ModelReference(name_or_path="/models/base/small")
    assert plan_training_job(job(model=base), options(**EVERYTHING)).files


def test_a_job_that_is_too_long_for_a_request_is_refused() -> None:
    with pytest.raises(InvalidExperiment, match="240,000"):
        plan_training_job(job(variables={"LONG": "x" * 200_000}), options())


@pytest.mark.parametrize(
    "given",
    [
        {"instance_type": "g5.xlarge"}, {"role_arn": "training"}, {"output_s3_uri": "bucket/x"},
        {"max_wait_seconds": 9}, {"spot": True, "max_wait_seconds": 9}, {"subnets": ["subnet-1"]},
        {"spot": True, "keep_alive_seconds": 9}, {"channels": [{"name": "x"}]},
        {"channels": [{"name": "x", "file_system_id": "fs-01234567"}]},
        {"channels": [{"name": "x", "s3_uri": "s3://bucket/x", "at": "/a/../b"}]},
        {"channels": [{"name": "x", "s3_uri": "s3://bucket/x"}, {"name": "x", "s3_uri": "s3://bucket/y"}]},
    ],
)  # fmt: skip
def test_options_that_cannot_hold_are_refused(given: dict[str, Any]) -> None:
    whole = {**options().to_document(), **given}
    with pytest.raises(InvalidExperiment, match=r"cluster\.options"):
        parse_spec(SageMakerOptions, whole, "experiment.toml", "cluster.options")
