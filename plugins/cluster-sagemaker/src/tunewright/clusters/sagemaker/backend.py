"""Cluster `sagemaker`: sends planned requests, and asks what became of them."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

from tunewright.clusters.sagemaker.log_text import LogText
from tunewright.clusters.sagemaker.options import SageMakerOptions
from tunewright.clusters.sagemaker.plan import JOB_FILE, REQUEST_FILE, plan_training_job, with_key
from tunewright.clusters.sagemaker.service import Service
from tunewright.clusters.sagemaker.states import needs_description, not_found, read_status
from tunewright.contracts.errors import InvalidExperiment, SubmissionRefused
from tunewright.contracts.jobs import JobHandle, JobSpec, SubmissionPlan
from tunewright.contracts.preflight import Finding, Severity
from tunewright.contracts.spec import Spec
from tunewright.contracts.status import JobStatus

_CREDENTIAL_VARIABLES = (
    "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)  # fmt: skip
_CREDENTIAL_FILES = (("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), ("AWS_CONFIG_FILE", "~/.aws/config"))


class SageMakerCluster:
    """See `tunewright.contracts.clusters.Cluster` for what each verb promises."""

    def __init__(self) -> None:
        self._service = cache(Service)

    def check(self) -> Sequence[Finding]:
        """Whether boto3 is there, and whether it would find credentials. AWS is not asked."""
        if find_spec("boto3") is None:
            return (Finding(code="boto3-missing", message="cluster `sagemaker` needs boto3", hint="pip install boto3"),)
        files = (os.environ.get(variable) or os.path.expanduser(path) for variable, path in _CREDENTIAL_FILES)
        if any(os.environ.get(name) for name in _CREDENTIAL_VARIABLES) or any(map(os.path.isfile, files)):
            return ()
        message = "no AWS credentials in variables or in ~/.aws; only on a machine of AWS there may be others"
        hint = "run `aws configure`, or set AWS_PROFILE"
        return (Finding(code="aws-credentials-missing", severity=Severity.WARNING, message=message, hint=hint),)

    def plan(self, job: JobSpec, options: Spec) -> SubmissionPlan:
        """The request of CreateTrainingJob."""
        assert isinstance(options, SageMakerOptions)
        return plan_training_job(job, options)

    def submit(self, plan: SubmissionPlan, key: str) -> JobHandle:
        """Send the request, its name completed: SageMaker itself takes each name once."""
        request, start = json.loads(plan.text_of(REQUEST_FILE)), json.loads(plan.text_of(JOB_FILE))
        service = self._service(start["region"])
        for variable, name in service.missing_secrets(start["secrets"]):
            hint = f"aws secretsmanager create-secret --name {name} --secret-string ..."
            words = f"cluster.secrets.{variable}: AWS Secrets Manager has no secret `{name}` in {service.region}"
            raise SubmissionRefused(words, hint)
        request["TrainingJobName"] = with_key(request["TrainingJobName"], start["run_dir"], key)
        service.create(request)
        data = json.dumps({"region": service.region, "nodes": start["nodes"]})
        return JobHandle(cluster="sagemaker", native_id=request["TrainingJobName"], data=data)

    def status(self, handles: Sequence[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        """By lists of a hundred, then one by one where a list does not say why a job failed."""
        by_region = defaultdict[str, list[JobHandle]](list)
        for handle in handles:
            by_region[_data(handle)["region"]].append(handle)
        told: dict[JobHandle, JobStatus] = {}
        for region, ours in by_region.items():
            told |= self._status_in(self._service(region), ours)
        return {handle: told[handle] for handle in handles}

    def _status_in(self, service: Service, handles: Sequence[JobHandle]) -> dict[JobHandle, JobStatus]:
        lines = service.list([handle.native_id for handle in handles]) if len(handles) > 1 else {}
        told = {}
        for handle in handles:
            job = lines.get(handle.native_id)
            if job is None or needs_description(job):
                job = service.describe(handle.native_id)
            told[handle] = not_found(handle.native_id) if job is None else read_status(job)
        return told

    def logs(self, handle: JobHandle, replica: int = 0, follow: bool = False, since: int = 0) -> Iterator[bytes]:
        """The lines that CloudWatch has of node `replica`, each ended by a newline."""
        data = _data(handle)
        if not 0 <= replica < data["nodes"]:
            allowed = "only 0 is allowed" if data["nodes"] == 1 else f"0 to {data['nodes'] - 1} are allowed"
            raise InvalidExperiment(f"--replica {replica}: the job has {data['nodes']} node(s); {allowed}")
        service = self._service(data["region"])
        text = LogText(service, handle.native_id, replica)
        return text.pieces(since, (lambda: self._has_ended(handle)) if follow else None)

    def _has_ended(self, handle: JobHandle) -> bool:
        return self.status([handle])[handle].state.is_terminal

    def stop(self, handle: JobHandle) -> None:
        """SageMaker sends SIGTERM, and SIGKILL two minutes later."""
        self._service(_data(handle)["region"]).stop(handle.native_id)

    def url(self, handle: JobHandle) -> str | None:
        """The job's page in the console."""
        region = _data(handle)["region"]
        place = f"{region}.console.aws.amazon.com" if region else "console.aws.amazon.com"
        return f"https://{place}/sagemaker/home?region={region or ''}#/jobs/{handle.native_id}"


def _data(handle: JobHandle) -> dict[str, Any]:
    """What a handle says beside the name. One that is not ours stands for a job that nobody knows."""
    try:
        data = json.loads(handle.data)
    except ValueError:
        data = None
    return data if isinstance(data, dict) and {"region", "nodes"} <= data.keys() else {"region": None, "nodes": 1}
