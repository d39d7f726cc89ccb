"""Beaker as the other modules need it: the one that imports its client, and knows its errors.

The client's own calls try again for ever where a server is away, so the calls are made here, each with a time limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import grpc

from beaker import Beaker
from beaker import beaker_pb2 as pb2
from beaker.exceptions import (
    BeakerConfigurationError,
    BeakerError,
    BeakerServerError,
    RequestException,
)
from tunewright.contracts.errors import SubmissionRefused, Unavailable

PAGE_SIZE = 200
_CALL_SECONDS = 30.0
_TRIES = 3
_PAUSE_SECONDS = 0.5
_PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.DEADLINE_EXCEEDED)
_CLOCK_SLACK = timedelta(minutes=5)


class NotThereError(LookupError):
    """Beaker has no such thing."""


class Service:
    """Calls to Beaker. Made by `open_service`, used within `errors_in_words`."""

    def __init__(self, client: Beaker) -> None:
        self.client = client

    @property
    def address(self) -> str:
        """Of Beaker's pages, without a slash at the end."""
        return str(self.client.config.agent_address).rstrip("/")

    @cached_property
    def user(self) -> str:
        """Who we are."""
        return str(self.call("GetUser", pb2.GetUserRequest()).user.name)

    def workspace_id(self, name: str | None) -> str:
        """The id of a workspace, by default of the configured one."""
        full = name or self.client.config.default_workspace
        if not full:
            hint = "set cluster.options.workspace, or default_workspace in Beaker's configuration"
            raise SubmissionRefused("no workspace: neither the experiment nor Beaker's configuration names one", hint)
        if "/" not in full:
            full = f"{self.client.config.default_org or self.user}/{full}"
        owner, _, own = full.partition("/")
        request = pb2.ResolveWorkspaceNameRequest(owner_name=owner, workspace_name=own)
        try:
            return str(self.call("ResolveWorkspaceName", request).workspace_id)
        except NotThereError:
            raise SubmissionRefused(f"cluster.options.workspace: Beaker has no workspace `{full}`") from None

    def find_workload(self, name: str) -> pb2.Workload | None:
        """Our experiment of this name, None where there is none."""
        request = pb2.ResolveWorkloadNameRequest(author_name=self.user, workload_name=name)
        try:
            found = self.call("ResolveWorkloadName", request)
        except NotThereError:
            return None
        return self.workload(str(found.workload_id))

    def workload(self, workload_id: str) -> pb2.Workload | None:
        """An experiment by its id, None where there is none."""
        try:
            answer: pb2.GetWorkloadResponse = self.call("GetWorkload", pb2.GetWorkloadRequest(workload_id=workload_id))
        except NotThereError:
            return None
        return answer.workload

    def workloads_since(self, workspace_id: str, created_at: datetime) -> dict[str, pb2.Workload]:
        """All experiments of a workspace since then, by their ids: a call for each page."""
        options = pb2.ListWorkloadsRequest.Opts
        request = pb2.ListWorkloadsRequest(
            options=options(
                sort_clause=options.SortClause(sort_order=pb2.SORT_ORDER_DESCENDING, created={}),
                organization_id=self._organization_id,
                workspace_id=workspace_id,
                workload_type=pb2.WORKLOAD_TYPE_EXPERIMENT,
                created_after=created_at - _CLOCK_SLACK,
                page_size=PAGE_SIZE,
            )
        )
        return {one.experiment.id: one for one in self._pages("ListWorkloads", request, "workloads")}

    def jobs(self, task_id: str) -> list[pb2.Job]:
        """Every start of a task, in any order."""
        options = pb2.ListJobsRequest.Opts
        request = pb2.ListJobsRequest(
            options=options(
                sort_clause=options.SortClause(sort_order=pb2.SORT_ORDER_DESCENDING, created={}),
                organization_id=self._organization_id,
                task_id=task_id,
                page_size=PAGE_SIZE,
            )
        )
        return list(self._pages("ListJobs", request, "jobs"))

    @cached_property
    def _organization_id(self) -> str:
        name = self.client.config.default_org or (self.client.config.default_workspace or "").partition("/")[0]
        try:
            found = self.call("ResolveOrganizationName", pb2.ResolveOrganizationNameRequest(organization_name=name))
        except NotThereError:
            return name
        return str(found.organization_id)

    def cancel(self, workload_id: str) -> None:
        """Ask for its end. One that has ended, or is not there, is no error."""
        try:
            self.call("CancelWorkloads", pb2.CancelWorkloadsRequest(workload_ids=[workload_id]))
        except (NotThereError, BeakerError):
            if (workload := self.workload(workload_id)) is not None and not is_over(workload):
                raise

    def has_secret(self, workspace_id: str, name: str) -> bool:
        """Whether the workspace has a secret of this name. Its value is not read."""
        try:
            self.call("GetSecret", pb2.GetSecretRequest(workspace_id=workspace_id, secret_name=name))
        except NotThereError:
            return False
        return True

    def find_image(self, name: str) -> pb2.Image | None:
        """Our image of this name, None where there is none."""
        request = pb2.ResolveImageNameRequest(author_name=self.user, image_name=name)
        try:
            image_id = self.call("ResolveImageName", request).image_id
            answer: pb2.GetImageResponse = self.call("GetImage", pb2.GetImageRequest(image_id=image_id))
        except NotThereError:
            return None
        return answer.image

    def groups(self, workspace_id: str) -> dict[str, str]:
        """The ids of the workspace's groups of experiments, by their short and their full names."""
        options = pb2.ListGroupsRequest.Opts
        request = pb2.ListGroupsRequest(
            options=options(
                sort_clause=options.SortClause(sort_order=pb2.SORT_ORDER_ASCENDING, name={}),
                organization_id=self._organization_id,
                workspace_id=workspace_id,
                page_size=PAGE_SIZE,
            )
        )
        found = self._pages("ListGroups", request, "groups")
        return {name: one.id for one in found for name in (one.name, one.full_name)}

    def make_group(self, workspace_id: str, name: str) -> str:
        """Make a group of experiments, and give its id."""
        return str(self.call("CreateGroup", pb2.CreateGroupRequest(workspace_id=workspace_id, name=name)).group.id)

    def add_to_group(self, group_id: str, experiment_id: str) -> None:
        """Put an experiment into a group. One that is in it stays."""
        self.call("UpdateGroup", pb2.UpdateGroupRequest(group_id=group_id, add_experiment_ids=[experiment_id]))

    def post(self, resource: str, data: dict[str, Any], query: dict[str, str], conflict: Exception) -> dict[str, Any]:
        """Make a thing through the half of the API that is REST. Raises `conflict` where its name is taken."""
        answer: dict[str, Any] = self.client.experiment.http_request(
            resource, method="POST", query=query, data=data, exceptions_for_status={409: conflict}
        ).json()
        return answer

    def log_lines(self, job: pb2.Job, follow: bool) -> Iterator[bytes]:
        """The lines of a start, as Beaker keeps them, each given a newline. With `follow` to the start's end."""
        for line in self.client.job.logs(job, follow=follow):
            yield line.message + b"\n"

    def call(self, method: str, request: Any) -> Any:
        """One call, again where the server or the way to it fails. Raises NotThereError, Unavailable or BeakerError."""
        for number in range(1, _TRIES + 1):
            try:
                return getattr(self.client.service, method)(request, metadata=self._metadata, timeout=_CALL_SECONDS)
            except grpc.RpcError as error:
                _raise_final(error, is_last=number == _TRIES)
                time.sleep(_PAUSE_SECONDS * number)
        raise AssertionError  # never reached: the last try raises

    def _pages(self, method: str, request: Any, field: str) -> Iterator[Any]:
        while True:
            answer = self.call(method, request)
            yield from getattr(answer, field)
            if not answer.next_page_token:
                return
            request.next_page_token = answer.next_page_token

    @property
    def _metadata(self) -> list[tuple[str, str]]:
        return [("authorization", f"bearer {self.client.config.user_token}"), ("user-agent", self.client.user_agent)]


def is_over(workload: pb2.Workload) -> bool:
    """Whether Beaker says that it has ended."""
    return workload.status in (pb2.STATUS_CANCELED, pb2.STATUS_SUCCEEDED, pb2.STATUS_FAILED)


def _raise_final(error: grpc.RpcError, is_last: bool) -> None:
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.NOT_FOUND:
        raise NotThereError(details) from None
    if code is grpc.StatusCode.UNAUTHENTICATED:
        raise Unavailable(f"Beaker does not know this token: {details}", "`beaker account login`") from None
    if code not in _PASSING:
        raise BeakerError(details or str(code)) from None
    if is_last:
        raise Unavailable(f"Beaker does not answer: {details or code.name}") from None


def open_service() -> Service:
    """Beaker, by the user's configuration. Connects with the first call; what nobody holds any more is closed."""
    client = Beaker.from_env(check_for_upgrades=False)
    client.MAX_RETRIES = 2  # type: ignore[misc]  # of this client only: its own five wait for a minute
    return Service(client)


@contextmanager
def errors_in_words() -> Iterator[None]:
    """Raises SubmissionRefused for what Beaker refuses, Unavailable where it cannot be asked."""
    try:
        yield
    except BeakerConfigurationError as error:
        raise Unavailable(
            f"no configuration of Beaker: {error}", "`beaker account login`, or set BEAKER_TOKEN"
        ) from None
    except (BeakerServerError, RequestException) as error:
        raise Unavailable(f"Beaker does not answer: {error}") from None
    except (BeakerError, NotThereError) as error:
        raise SubmissionRefused(f"Beaker refuses: {error}") from None


def in_parallel(tasks: Sequence[Callable[[], Any]]) -> list[Any]:
    """The results of some calls, in their order, a few of them at a time."""
    from concurrent.futures import ThreadPoolExecutor

    if len(tasks) < 2:
        return [task() for task in tasks]
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(lambda task: task(), tasks))


def iso(moment: Any) -> str:
    """A time of the protocol as ISO 8601 in UTC."""
    return str(moment.ToDatetime(tzinfo=UTC).isoformat())
