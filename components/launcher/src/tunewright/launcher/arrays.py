"""Many jobs in one submission, where the cluster takes them so: sent once, however often a launcher dies on the way."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tunewright.contracts.clusters import Capability
from tunewright.contracts.errors import BrokenPlugin
from tunewright.contracts.files import write_json_atomically, write_text_atomically
from tunewright.contracts.jobs import JobHandle, PlannedFile, SubmissionPlan
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.spec import digest_of
from tunewright.contracts.status import JobState, JobStatus
from tunewright.launcher.batch import Batch
from tunewright.launcher.clusters import GuardedCluster
from tunewright.launcher.events import record_event
from tunewright.launcher.prepare import options_of
from tunewright.launcher.run_store import read_handle, read_json
from tunewright.launcher.submit import tell_submitted
from tunewright.launcher.sweep import PlannedPoint
from tunewright.launcher.watch import Watch

_DOCUMENT = "array.json"
_PLAN = "plan"


def submit_arrays(watch: Watch, planned: Sequence[PlannedPoint], has_others: bool) -> None:
    """Send those of `planned` that a cluster takes as one array. The rest is left to be sent one by one.

    With `at_most` there is one array or none: two would have twice as many running, and so would an array beside
    `has_others`, runs of an earlier launch.
    """
    groups = [part for group in _groups(planned) if _takes_arrays(watch.host, group) for part in _parts(watch, group)]
    is_whole = len(groups) == 1 and len(groups[0]) == len(planned) and not has_others
    if watch.batch.at_most is not None and not is_whole:
        return
    for group in groups:
        _submit(watch, _write_array(watch, group))


def _groups(planned: Sequence[PlannedPoint]) -> list[list[PlannedPoint]]:
    """Those that ask for the same: cluster, resources, retries, options, variables, and environment."""
    groups: dict[tuple[str, str], list[PlannedPoint]] = defaultdict(list)
    for one in planned:
        cluster, environment = one.point.checked.experiment.spec.cluster, one.job.environment
        groups[cluster.model_dump_json(), environment.key if environment else ""].append(one)
    return list(groups.values())


def _takes_arrays(host: PluginHost, group: Sequence[PlannedPoint]) -> bool:
    name = group[0].point.checked.experiment.spec.cluster.name
    return len(group) > 1 and Capability.ARRAY in host.clusters.get(name).capabilities


def _parts(watch: Watch, group: Sequence[PlannedPoint]) -> Iterator[Sequence[PlannedPoint]]:
    """The group, cut into as few arrays as its cluster takes, of much the same size."""
    checked = group[0].point.checked
    cluster = watch.cluster(checked.experiment.spec.cluster.name)
    num_parts = -(-len(group) // cluster.largest_array(options_of(checked)))
    edges = [len(group) * part // num_parts for part in range(num_parts + 1)]
    return (group[start:end] for start, end in itertools.pairwise(edges))


def _write_array(watch: Watch, group: Sequence[PlannedPoint]) -> Path:
    """Plan one array and keep it, whole, before its cluster hears of it."""
    batch, checked = watch.batch, group[0].point.checked
    cluster = watch.cluster(checked.experiment.spec.cluster.name)
    plan = cluster.plan_array([one.job for one in group], options_of(checked), batch.at_most)
    directory = _new_directory(batch)
    (directory / _PLAN).mkdir()
    for file in plan.files:
        write_text_atomically(directory / _PLAN / file.name, file.text)
    runs = [{"run": one.run, "number": _number_of(batch.run_dir(one.run))} for one in group]
    key = f"{batch.name}-{directory.name}-{digest_of([str(directory), runs])[:12]}"
    document = {"key": key, "cluster": plan.cluster, "files": [file.name for file in plan.files], "runs": runs}
    write_json_atomically(directory / _DOCUMENT, document)
    return directory


def _new_directory(batch: Batch) -> Path:
    number = 1
    while True:
        directory = batch.directory / f"array-{number}"
        try:
            os.mkdir(directory)
        except FileExistsError:
            number += 1
        else:
            return directory


def _number_of(run: RunDir) -> int:
    return int(read_json(run.submission).get("number", 0))


def finish_arrays(watch: Watch) -> None:
    """Go on with arrays whose submission was not confirmed, because a launcher died on the way."""
    for directory in sorted(watch.batch.directory.glob("array-*")):
        if any(True for _ in _waiting(watch.batch, directory)):
            _submit(watch, directory)


def _waiting(batch: Batch, directory: Path) -> Iterator[tuple[int, RunDir]]:
    """The runs of the array that have no handle, each with its place; not those that were started again since."""
    for place, one in enumerate(read_json(directory / _DOCUMENT).get("runs", ())):
        run = batch.run_dir(one["run"])
        if _number_of(run) == one["number"] and read_handle(run) is None:
            yield place, run


def _submit(watch: Watch, directory: Path) -> None:
    """Send it, or find what was sent by its key, and give each run its handle."""
    document = read_json(directory / _DOCUMENT)
    key, waiting = str(document["key"]), dict(_waiting(watch.batch, directory))
    paths = [directory / _PLAN / name for name in document["files"]]
    files = tuple(PlannedFile(name=path.name, text=path.read_bytes().decode()) for path in paths)
    plan = SubmissionPlan(cluster=document["cluster"], run=watch.batch.name, files=files)
    for run in waiting.values():
        event = JobStatus(state=JobState.PENDING, message=f"submitting as {key}")
        record_event(run, event, is_new_submission=True)
    cluster = watch.cluster(plan.cluster)
    handles = cluster.submit_array(plan, key)
    if len(handles) != len(document["runs"]):
        wrong = f"gave {len(handles)} handles for an array of {len(document['runs'])} jobs"
        raise BrokenPlugin(f"cluster `{plan.cluster}` {wrong}")
    _keep(watch, cluster, {run: handles[place] for place, run in waiting.items()})


def _keep(watch: Watch, cluster: GuardedCluster, handles: Mapping[RunDir, JobHandle]) -> None:
    for run, handle in handles.items():
        write_json_atomically(run.handle, handle.to_document())
    statuses = cluster.status(list(handles.values()))
    for run, handle in handles.items():
        record_event(run, statuses[handle])
        tell_submitted(run, handle, watch.host)
