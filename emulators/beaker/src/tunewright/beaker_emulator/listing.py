"""Lists as the client asks for them: what matches, in which order, a page at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from beaker import beaker_pb2 as pb2
from google.protobuf.message import Message  # pants: no-infer-dep

from tunewright.beaker_emulator.identifiers import new_id
from tunewright.beaker_emulator.lifecycle import ENDED
from tunewright.beaker_emulator.refusals import InvalidRequest, NotFound
from tunewright.beaker_emulator.store import Table

M = TypeVar("M", bound=Message)

_DEFAULT_PAGE = 50


class Pages:
    """Lists that come in pages: the rows after the first page are kept until they are asked for."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[list[Any], int]] = {}

    def of(self, request: Any, rows: Callable[[Any], Iterable[M]]) -> tuple[list[M], str | None]:
        """A page, and the token of the next one where there is more."""
        if request.WhichOneof("opts") == "next_page_token":
            if request.next_page_token not in self._kept:
                raise InvalidRequest("invalid page token")
            found, size = self._kept[request.next_page_token]
        else:
            options = request.options
            found = _sorted(list(rows(options)), options)
            size = (options.page_size if "page_size" in options.DESCRIPTOR.fields_by_name else 0) or _DEFAULT_PAGE
        page, rest = found[:size], found[size:]
        if not rest:
            return page, None
        token = new_id()
        self._kept[token] = (rest, size)
        return page, token


def _sorted(rows: list[M], options: Any) -> list[M]:
    if "sort_clause" not in options.DESCRIPTOR.fields_by_name:
        return rows
    clause = options.sort_clause
    field = clause.WhichOneof("sort_by") or "name"
    descending = clause.sort_order == pb2.SortOrder.SORT_ORDER_DESCENDING
    return sorted(rows, key=lambda row: _sort_key(row, field), reverse=descending)


def _sort_key(row: Any, field: str) -> Any:
    """Ids break ties, and stand for times: they sort by when they were made."""
    if isinstance(row, pb2.Workload):
        row = row.experiment
    if isinstance(row, pb2.Job):
        if field == "cluster_job_queue":
            return (-row.system_details.priority, row.id)
        return (row.status.created.ToNanoseconds(), row.id)
    names = row.DESCRIPTOR.fields_by_name
    identity = getattr(row, "id", "") if "id" in names else getattr(row, "name", "")
    if field in ("created", "modified") and field in names:
        return (getattr(row, field).ToNanoseconds(), identity)
    return (row.name if "name" in names else getattr(row, "hostname", ""), identity)


def need(table: Table[M], matches: Callable[[M], bool], what: str) -> M:
    """The first that matches. NotFound says `what` there is none of."""
    found = table.find(matches)
    if found is None:
        raise NotFound(f"{what} not found")
    return found


def says(row: Any, text: str) -> bool:
    """Whether the text is in its name or description, small letters or large."""
    return text.lower() in row.name.lower() or text.lower() in row.description.lower()


def is_of(row: Any, opts: Any) -> bool:
    """Whether it has the author and the workspace that are asked for."""
    of_author = not opts.HasField("author_id") or row.author_id == opts.author_id
    return of_author and (not opts.HasField("workspace_id") or row.workspace_id == opts.workspace_id)


def _is_between(row: Any, opts: Any) -> bool:
    created = row.created.ToNanoseconds()
    late_enough = not opts.HasField("created_after") or created > opts.created_after.ToNanoseconds()
    return late_enough and (not opts.HasField("created_before") or created < opts.created_before.ToNanoseconds())


def workload_matches(workload: pb2.Workload, opts: Any) -> bool:
    """Whether the options of a list of workloads let it through."""
    experiment = workload.experiment
    if opts.HasField("workload_type") and opts.workload_type != pb2.WorkloadType.WORKLOAD_TYPE_EXPERIMENT:
        return False
    if opts.HasField("job_finalized") and (workload.status in ENDED) != opts.job_finalized:
        return False
    if opts.statuses and workload.status not in opts.statuses:
        return False
    return (
        says(experiment, opts.name_or_description_substring)
        and is_of(experiment, opts)
        and _is_between(experiment, opts)
    )


def dataset_matches(dataset: pb2.Dataset, opts: Any) -> bool:
    """Whether the options of a list of datasets let it through."""
    kinds, states = type(opts).DatasetType, type(opts).CommittedStatus
    is_result = dataset.HasField("source_execution")
    if opts.dataset_type == kinds.Value("DATASET_TYPE_IS_RESULT") and not is_result:
        return False
    if opts.dataset_type == kinds.Value("DATASET_TYPE_IS_NOT_RESULT") and is_result:
        return False
    wanted = {states.Value("STATUS_COMMITTED"): True, states.Value("STATUS_UNCOMMITTED"): False}
    if dataset.HasField("committed") != wanted.get(opts.committed_status, dataset.HasField("committed")):
        return False
    return says(dataset, opts.name_or_description_substring) and is_of(dataset, opts) and _is_between(dataset, opts)


def is_eligible(job: pb2.Job, cluster_id: str) -> bool:
    """Whether the job may run on the cluster."""
    kind = pb2.JobPlacementConstraintType.JOB_PLACEMENT_CONSTRAINT_TYPE_CLUSTER
    named = [constraint for constraint in job.system_details.placement_constraints if constraint.type == kind]
    return all(cluster_id in constraint.values for constraint in named)
