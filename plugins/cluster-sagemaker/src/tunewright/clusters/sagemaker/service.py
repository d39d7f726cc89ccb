"""What is asked of AWS: training jobs, their logs, and whether a secret is there. The one module that imports boto3."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from os.path import commonprefix
from typing import Any

from tunewright.contracts.errors import SubmissionRefused, TunewrightError, Unavailable

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
_PAGE = 100
_UNKNOWN_JOB = ("ResourceNotFound", "ResourceNotFoundException", "ValidationException", "ValidationError")


class Service:
    """AWS in one region; None is the one that the user's AWS configuration says."""

    def __init__(self, region: str | None) -> None:
        self._region = region

    @cached_property
    def _session(self) -> Any:
        try:
            import boto3
            import botocore.session  # pants: no-infer-dep
        except ImportError:
            raise Unavailable("cluster `sagemaker` needs boto3", "pip install boto3") from None
        session = botocore.session.Session()
        session.register_component("data_loader", _models())
        return boto3.session.Session(botocore_session=session, region_name=self._region)

    @cached_property
    def _sagemaker(self) -> Any:
        return self._client("sagemaker")

    @cached_property
    def _logs(self) -> Any:
        return self._client("logs")

    def _client(self, name: str) -> Any:
        from botocore.config import Config  # pants: no-infer-dep

        try:
            # Describing many jobs meets the limit of calls a second: the client waits.
            return self._session.client(name, config=Config(retries={"mode": "adaptive"}))
        except _failures() as error:
            raise _unavailable(error) from None

    @property
    def region(self) -> str:
        """The region's name."""
        return str(self._sagemaker.meta.region_name)

    def create(self, request: Mapping[str, Any]) -> None:
        """Start a training job, unless there is one of that name: SageMaker takes each name once."""
        try:
            self._sagemaker.create_training_job(**request)
        except _failures() as error:
            if _code(error) == "ResourceInUse":
                return
            if _code(error):
                raise SubmissionRefused(f"SageMaker did not take the job: {_words(error)}", _hint(error)) from None
            raise _unavailable(error) from None

    def describe(self, name: str) -> Mapping[str, Any] | None:
        """All about a training job. None: there is none of that name."""
        try:
            description: Mapping[str, Any] = self._sagemaker.describe_training_job(TrainingJobName=name)
            return description
        except _failures() as error:
            if _code(error) in _UNKNOWN_JOB:
                return None
            raise _unavailable(error) from None

    def list(self, names: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """A line for each of `names` that is found in as many calls as describing each would take, or fewer."""
        wanted, found = set(names), dict[str, Mapping[str, Any]]()
        prefix = commonprefix(list(names))  # noqa: RUF071 - of names, not of paths
        request: dict[str, Any] = {"MaxResults": _PAGE, "SortBy": "CreationTime", "SortOrder": "Descending"}
        if prefix:
            request["NameContains"] = prefix
        for _ in names:
            try:
                page = self._sagemaker.list_training_jobs(**request)
            except _failures() as error:
                raise _unavailable(error) from None
            lines = {line["TrainingJobName"]: line for line in page["TrainingJobSummaries"]}
            found |= {name: line for name, line in lines.items() if name in wanted}
            if len(found) == len(wanted) or not page.get("NextToken"):
                break
            request["NextToken"] = page["NextToken"]
        return found

    def stop(self, name: str) -> None:
        """Ask for the end. A job that has ended, or that is not there, is no error."""
        try:
            self._sagemaker.stop_training_job(TrainingJobName=name)
        except _failures() as error:
            if _code(error) not in _UNKNOWN_JOB:
                raise _unavailable(error) from None

    def log_streams(self, name: str, replica: int) -> Sequence[str]:
        """The streams of a node, one for each start of its container, in their order."""
        request = {"logGroupName": LOG_GROUP, "logStreamNamePrefix": f"{name}/algo-{replica + 1}-"}
        try:
            streams = self._logs.describe_log_streams(**request)["logStreams"]
        except _failures() as error:
            if _code(error) in _UNKNOWN_JOB:
                return ()
            raise _unavailable(error) from None
        return sorted(stream["logStreamName"] for stream in streams)

    def log_lines(self, stream: str, token: str | None) -> tuple[Sequence[str], str]:
        """A page of a stream, and the token of the next. At the end it is the same token again."""
        request = {"logGroupName": LOG_GROUP, "logStreamName": stream, "startFromHead": True}
        try:
            page = self._logs.get_log_events(**request, **({"nextToken": token} if token else {}))
        except _failures() as error:
            raise _unavailable(error) from None
        return [str(event["message"]) for event in page["events"]], str(page["nextForwardToken"])

    def missing_secrets(self, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """Variable and name of each secret that is not there, as far as we may ask: the job's role may do more."""
        if not names:
            return
        client = self._client("secretsmanager")
        for variable, name in names.items():
            try:
                client.describe_secret(SecretId=name)
            except _failures() as error:
                if _code(error) in _UNKNOWN_JOB:
                    yield variable, name
                elif not _code(error):
                    raise _unavailable(error) from None


@cache
def _models() -> Any:
    """What botocore knows of AWS's services: reading it takes half a second, so once a process."""
    from botocore.loaders import create_loader  # pants: no-infer-dep

    return create_loader(os.environ.get("AWS_DATA_PATH"))


def _failures() -> tuple[type[Exception], ...]:
    from botocore.exceptions import BotoCoreError, ClientError  # pants: no-infer-dep

    return (BotoCoreError, ClientError)


def _code(error: Exception) -> str:
    """AWS's own word for what went wrong. Empty where it did not answer."""
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


def _words(error: Exception) -> str:
    return str(getattr(error, "response", {}).get("Error", {}).get("Message", "") or error)


def _unavailable(error: Exception) -> TunewrightError:
    return Unavailable(f"AWS does not answer as it should: {_words(error)}", _hint(error))


def _hint(error: Exception) -> str:
    kind = type(error).__name__
    if kind in ("NoCredentialsError", "PartialCredentialsError"):
        return "run `aws configure`, or set AWS_PROFILE"
    if kind == "NoRegionError":
        return "set cluster.options.region"
    if _code(error) == "ResourceLimitExceeded":
        return "ask AWS for a higher quota, or take another cluster.options.instance_type"
    return ""
