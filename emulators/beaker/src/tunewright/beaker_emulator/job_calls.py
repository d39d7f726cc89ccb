"""Calls about jobs and their logs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

from beaker import beaker_pb2 as pb2

from tunewright.beaker_emulator.call_group import CallGroup
from tunewright.beaker_emulator.lifecycle import Code
from tunewright.beaker_emulator.listing import is_eligible
from tunewright.beaker_emulator.log_file import LogLine, LogReader

_FOLLOW_SECONDS = 0.05


class JobCalls(CallGroup):
    """What runs."""

    def GetJob(self, request: pb2.GetJobRequest, user: pb2.User) -> pb2.GetJobResponse:
        """By its id."""
        return pb2.GetJobResponse(job=self._store.jobs.get(request.job_id))

    def ListJobs(self, request: pb2.ListJobsRequest, user: pb2.User) -> pb2.ListJobsResponse:
        """Those that match."""

        def matching(opts: Any) -> Iterable[pb2.Job]:
            return [job for job in self._in_organization(opts, self._store.jobs) if self._job_matches(job, opts)]

        rows, token = self._pages.of(request, matching)
        return pb2.ListJobsResponse(jobs=rows, next_page_token=token)

    def StreamJobLogs(self, request: pb2.StreamJobLogsRequest, user: pb2.User) -> Iterator[pb2.JobLog | None]:
        """What the job wrote, line by line, as it comes where `follow` is set. None: nothing for a moment."""
        with self._store.lock:
            job = self._store.jobs.get(request.job_id)
        reader = LogReader(self._runner.log_path(job.id))
        since_ns = request.since.ToNanoseconds() if request.HasField("since") else 0
        lines = [line for line in reader.lines() if line.time_ns >= since_ns]
        yield from map(_log_message, lines[-request.tail_lines :] if request.tail_lines else lines)
        while request.follow:
            is_ended = job.status.HasField("finalized")
            for line in reader.lines():
                if line.time_ns >= since_ns:
                    yield _log_message(line)
            if is_ended:
                break
            yield None
            time.sleep(_FOLLOW_SECONDS)
        reader.close()

    def PreemptJob(self, request: pb2.PreemptJobRequest, user: pb2.User) -> pb2.PreemptJobResponse:
        """As if another job needed the node."""
        job = self._store.jobs.get(request.job_id)
        self._writable_workspace(job.workspace_id, user)
        code = request.canceled_code if request.HasField("canceled_code") else Code.CANCELATION_CODE_USER_PREEMPTION
        self._lifecycle.preempt(job, code, request.canceled_for or f"preempted by {user.name}")
        self._scheduler.wake()
        return pb2.PreemptJobResponse(job=job)

    def UpdateJobSourcePriority(
        self, request: pb2.UpdateJobSourcePriorityRequest, user: pb2.User
    ) -> pb2.UpdateJobSourcePriorityResponse:
        """Of the job and of those that follow it."""
        job = self._store.jobs.get(request.job_id)
        self._writable_workspace(job.workspace_id, user)
        experiment, task = self._store.task(job.task_id)
        task.system_details.priority = request.priority
        job.system_details.priority = request.priority
        self._store.experiments.put(experiment)
        self._scheduler.wake()
        return pb2.UpdateJobSourcePriorityResponse(job=self._store.jobs.put(job))

    def ListJobEvents(self, request: pb2.ListJobEventsRequest, user: pb2.User) -> pb2.ListJobEventsResponse:
        """What happened to a job."""

        def events(opts: Any) -> Iterable[pb2.JobEvent]:
            for event in self._store.events.get(self._store.jobs.get(opts.job_id).id, []):
                message = pb2.JobEvent(id=event["id"], job_id=opts.job_id)
                message.status, message.message = event["status"], event["message"]
                message.created.FromNanoseconds(event["time_ns"])
                message.occurred.FromNanoseconds(event["time_ns"])
                yield message

        rows, token = self._pages.of(request, events)
        return pb2.ListJobEventsResponse(job_events=rows, next_page_token=token)

    def ListSummarizedJobEvents(
        self, request: pb2.ListSummarizedJobEventsRequest, user: pb2.User
    ) -> pb2.ListSummarizedJobEventsResponse:
        """What happened to a job, one line for each status."""
        rows, token = self._pages.of(request, lambda opts: self._summaries(opts.job_id))
        return pb2.ListSummarizedJobEventsResponse(summarized_job_events=rows, next_page_token=token)

    def _job_matches(self, job: pb2.Job, opts: Any) -> bool:
        status, node_id = job.status, job.assignment_details.node_id
        node = self._organization.nodes.get(node_id)
        checks = (
            ("task_id", lambda wanted: job.task_id == wanted),
            ("environment_id", lambda wanted: False),
            ("finalized", lambda wanted: status.HasField("finalized") == wanted),
            ("scheduled", lambda wanted: status.HasField("scheduled") == wanted),
            ("canceled", lambda wanted: status.HasField("canceled") == wanted),
            ("exited", lambda wanted: status.HasField("exited") == wanted),
            ("scheduled_on_node_id", lambda wanted: node_id == wanted),
            ("scheduled_on_cluster_id", lambda wanted: node is not None and node.cluster.id == wanted),
            ("eligible_for_cluster_id", lambda wanted: is_eligible(job, wanted)),
        )
        return all(not opts.HasField(name) or check(getattr(opts, name)) for name, check in checks)

    def _summaries(self, job_id: str) -> list[pb2.SummarizedJobEvent]:
        by_status: dict[str, pb2.SummarizedJobEvent] = {}
        for event in self._store.events.get(self._store.jobs.get(job_id).id, []):
            summary = by_status.setdefault(event["status"], pb2.SummarizedJobEvent(job_id=job_id))
            if not summary.occurrences:
                summary.earliest_occurrence.FromNanoseconds(event["time_ns"])
            summary.occurrences += 1
            summary.status, summary.latest_message = event["status"], event["message"]
            summary.latest_occurrence.FromNanoseconds(event["time_ns"])
        return list(by_status.values())


def _log_message(line: LogLine) -> pb2.JobLog:
    message = pb2.JobLog(message=line.text)
    message.timestamp.FromNanoseconds(line.time_ns)
    return message
