"""Calls about workloads, experiments and groups of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from beaker import beaker_pb2 as pb2

from tunewright.beaker_emulator.call_group import CallGroup
from tunewright.beaker_emulator.identifiers import checked_name, new_id
from tunewright.beaker_emulator.lifecycle import ENDED, Status
from tunewright.beaker_emulator.listing import is_of, need, says, workload_matches
from tunewright.beaker_emulator.moments import now
from tunewright.beaker_emulator.refusals import Conflict, InvalidRequest
from tunewright.beaker_emulator.submission import yaml_spec

_FURTHEST_FIRST = (
    Status.STATUS_RUNNING,
    Status.STATUS_STOPPING,
    Status.STATUS_UPLOADING_RESULTS,
    Status.STATUS_INITIALIZING,
    Status.STATUS_READY_TO_START,
    Status.STATUS_QUEUED,
    Status.STATUS_SUBMITTED,
)


class WorkloadCalls(CallGroup):
    """What was asked for."""

    def GetWorkload(self, request: pb2.GetWorkloadRequest, user: pb2.User) -> pb2.GetWorkloadResponse:
        """By its id."""
        return pb2.GetWorkloadResponse(workload=self._workload(self._store.experiments.get(request.workload_id)))

    def ResolveWorkloadName(
        self, request: pb2.ResolveWorkloadNameRequest, user: pb2.User
    ) -> pb2.ResolveWorkloadNameResponse:
        """The id of a name."""
        full_name = f"{request.author_name}/{request.workload_name}"
        author = self._organization.user(request.author_name)
        found = need(
            self._store.experiments,
            lambda experiment: (experiment.name, experiment.author_id) == (request.workload_name, author.id),
            f"workload {full_name!r}",
        )
        return pb2.ResolveWorkloadNameResponse(workload_id=found.id)

    def ListWorkloads(self, request: pb2.ListWorkloadsRequest, user: pb2.User) -> pb2.ListWorkloadsResponse:
        """Those that match."""

        def matching(opts: Any) -> Iterable[pb2.Workload]:
            for experiment in self._in_organization(opts, self._store.experiments):
                workload = self._workload(experiment)
                if workload_matches(workload, opts):
                    yield workload

        rows, token = self._pages.of(request, matching)
        return pb2.ListWorkloadsResponse(workloads=rows, next_page_token=token)

    def UpdateWorkload(self, request: pb2.UpdateWorkloadRequest, user: pb2.User) -> pb2.UpdateWorkloadResponse:
        """Name and description."""
        experiment = self._writable_experiment(request.workload_id, user)
        if request.HasField("name"):
            experiment.name = checked_name(request.name, "an experiment")
        if request.HasField("description"):
            experiment.description = request.description
        return pb2.UpdateWorkloadResponse(workload=self._workload(self._store.experiments.put(experiment)))

    def CancelWorkloads(self, request: pb2.CancelWorkloadsRequest, user: pb2.User) -> pb2.CancelWorkloadsResponse:
        """All of their jobs; none is asked where one does not exist."""
        experiments = [self._writable_experiment(workload_id, user) for workload_id in request.workload_ids]
        for experiment in experiments:
            if self._status(experiment) not in ENDED:
                self._lifecycle.cancel_experiment(experiment, f"canceled by {user.name}")
        self._scheduler.wake()
        return pb2.CancelWorkloadsResponse(workload_ids=request.workload_ids)

    def DeleteWorkloads(self, request: pb2.DeleteWorkloadsRequest, user: pb2.User) -> pb2.DeleteWorkloadsResponse:
        """What has ended."""
        experiments = [self._writable_experiment(workload_id, user) for workload_id in request.workload_ids]
        for experiment in experiments:
            if self._status(experiment) not in ENDED:
                raise InvalidRequest(f"workload {experiment.id!r} has not ended: cancel it first")
        for experiment in experiments:
            for job in [job for task in experiment.tasks for job in self._store.jobs.of_task(task.id)]:
                self._store.jobs.delete(job.id)
                self._store.events.delete(job.id)
            self._store.experiments.delete(experiment.id)
            self._store.specs.delete(experiment.id)
        return pb2.DeleteWorkloadsResponse()

    def GetExperimentYamlSpec(
        self, request: pb2.GetExperimentYamlSpecRequest, user: pb2.User
    ) -> pb2.GetExperimentYamlSpecResponse:
        """As it was sent."""
        experiment = self._store.experiments.get(request.experiment_id)
        return pb2.GetExperimentYamlSpecResponse(experiment_spec=yaml_spec(self._store, experiment.id))

    def RestartExperimentTasks(
        self, request: pb2.RestartExperimentTasksRequest, user: pb2.User
    ) -> pb2.RestartExperimentTasksResponse:
        """New jobs for what failed or was canceled."""
        experiment = self._writable_experiment(request.experiment_id, user)
        self._lifecycle.restart(experiment)
        self._scheduler.wake()
        return pb2.RestartExperimentTasksResponse(workload=self._workload(experiment))

    def GetGroup(self, request: pb2.GetGroupRequest, user: pb2.User) -> pb2.GetGroupResponse:
        """By its id."""
        return pb2.GetGroupResponse(group=self._store.groups.get(request.group_id))

    def ListGroups(self, request: pb2.ListGroupsRequest, user: pb2.User) -> pb2.ListGroupsResponse:
        """Those that match."""

        def matching(opts: Any) -> Iterable[pb2.Group]:
            for group in self._in_organization(opts, self._store.groups):
                if says(group, opts.name_or_description_substring) and is_of(group, opts):
                    yield group

        rows, token = self._pages.of(request, matching)
        return pb2.ListGroupsResponse(groups=rows, next_page_token=token)

    def CreateGroup(self, request: pb2.CreateGroupRequest, user: pb2.User) -> pb2.CreateGroupResponse:
        """Experiments under one name."""
        workspace = self._writable_workspace(request.workspace_id, user)
        full_name = f"{user.name}/{checked_name(request.name, 'a group')}"
        if self._store.groups.find(lambda group: group.full_name == full_name) is not None:
            raise Conflict(f"the name {request.name!r} is already in use")
        group = pb2.Group(
            id=new_id(),
            name=request.name,
            full_name=full_name,
            description=request.description,
            workspace_id=workspace.id,
            author_id=user.id,
            created=now(),
            modified=now(),
        )
        self._join(group, request.experiment_ids)
        return pb2.CreateGroupResponse(group=self._store.groups.put(group))

    def UpdateGroup(self, request: pb2.UpdateGroupRequest, user: pb2.User) -> pb2.UpdateGroupResponse:
        """Name, description, more experiments."""
        group = self._store.groups.get(request.group_id)
        self._writable_workspace(group.workspace_id, user)
        if request.HasField("name"):
            group.name = checked_name(request.name, "a group")
            group.full_name = f"{user.name}/{group.name}"
        if request.HasField("description"):
            group.description = request.description
        self._join(group, request.add_experiment_ids)
        group.modified.CopyFrom(now())
        return pb2.UpdateGroupResponse(group=self._store.groups.put(group))

    def DeleteGroups(self, request: pb2.DeleteGroupsRequest, user: pb2.User) -> pb2.DeleteGroupsResponse:
        """Their experiments stay."""
        for group in [self._store.groups.get(group_id) for group_id in request.group_ids]:
            self._writable_workspace(group.workspace_id, user)
            self._store.groups.delete(group.id)
            self._store.members.delete(group.id)
        return pb2.DeleteGroupsResponse()

    def ListGroupTaskMetrics(
        self, request: pb2.ListGroupTaskMetricsRequest, user: pb2.User
    ) -> pb2.ListGroupTaskMetricsResponse:
        """A row for each task of the group's experiments."""
        rows, token = self._pages.of(request, lambda opts: self._task_metrics(opts.group_id))
        return pb2.ListGroupTaskMetricsResponse(task_metrics=rows, next_page_token=token)

    def _workload(self, experiment: pb2.Experiment) -> pb2.Workload:
        shown = pb2.Experiment()
        shown.CopyFrom(experiment)
        for task in shown.tasks:
            task.status = self._task_status(task)
        budget_id = self._store.specs.get(experiment.id)["budget_id"]
        return pb2.Workload(experiment=shown, status=_overall(shown), budget_id=budget_id)

    def _task_status(self, task: pb2.Task) -> pb2.WorkloadStatus:
        latest = self._store.latest_job(task.id)
        return task.status if latest is None else latest.status.status

    def _status(self, experiment: pb2.Experiment) -> pb2.WorkloadStatus:
        return self._workload(experiment).status

    def _join(self, group: pb2.Group, experiment_ids: Iterable[str]) -> None:
        members = list(self._store.members.get(group.id, []))
        for experiment_id in experiment_ids:
            self._store.experiments.get(experiment_id)
            if experiment_id not in members:
                members.append(experiment_id)
        self._store.members.put(group.id, members)

    def _task_metrics(self, group_id: str) -> Iterator[pb2.TaskMetrics]:
        self._store.groups.get(group_id)
        for experiment_id in self._store.members.get(group_id, []):
            if experiment_id not in self._store.experiments:
                continue
            experiment = self._store.experiments.get(experiment_id)
            for task in experiment.tasks:
                row = pb2.TaskMetrics(task_id=task.id, task_name=task.name, task_status=self._task_status(task))
                row.experiment_id, row.experiment_name = experiment.id, experiment.name
                latest = self._store.latest_job(task.id)
                for name, value in sorted((latest.metrics if latest else pb2.Job().metrics).fields.items()):
                    kind = pb2.GroupParameter.GroupParameterType.GROUP_PARAMETER_METRIC
                    row.metrics.add(group_parameter=pb2.GroupParameter(type=kind, name=name), value=value)
                yield row


def _overall(experiment: pb2.Experiment) -> pb2.WorkloadStatus:
    """Of a workload, from its tasks: it has ended when all of them have."""
    found = {task.status for task in experiment.tasks}
    for status in _FURTHEST_FIRST:
        if status in found:
            return status
    for status in (Status.STATUS_FAILED, Status.STATUS_CANCELED):
        if status in found:
            return status
    return Status.STATUS_SUCCEEDED
