"""Cluster `slurm`: hands scripts to sbatch, and makes what Slurm and the jobs' own files say into a status."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewright.clusters.slurm.handles import JobPlace
from tunewright.clusters.slurm.login import LoginNode
from tunewright.clusters.slurm.options import SlurmOptions
from tunewright.clusters.slurm.plan import AFTER, NAME, PLAN_FILE, SCRIPT_FILE, array_of, plan_jobs
from tunewright.clusters.slurm.states import SlurmWord, judge, read_verdict
from tunewright.contracts.errors import InvalidExperiment, SubmissionRefused, Unavailable
from tunewright.contracts.jobs import JobHandle, JobSpec, SubmissionPlan
from tunewright.contracts.preflight import Finding, Severity
from tunewright.contracts.secret_values import read_secrets
from tunewright.contracts.spec import Spec
from tunewright.contracts.status import CauseKind, JobState, JobStatus

_FOLLOW_PAUSE_SECONDS = 0.1
_STATUS_PAUSE_SECONDS = 1.0
_FOLLOW_PAUSE_OVER_SSH_SECONDS = 2.0
_PIECE_BYTES = 4 << 20
_SAFE_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,150}")
_NEVER = "never-"
"""The beginning of the native id of a job that Slurm never got: what it was to start after had failed already."""


class SlurmCluster:
    """See `tunewright.contracts.clusters.Cluster` for what each verb promises."""

    def check(self) -> Sequence[Finding]:
        """Whether Slurm's programs are here: without them only a login node that is reached by SSH will do."""
        from shutil import which

        missing = [name for name in ("sbatch", "squeue", "scancel") if which(name) is None]
        if not missing:
            return ()
        message = f"no {' and no '.join(f'`{name}`' for name in missing)} on this machine"
        hint = "set cluster.options.ssh_host to a login node, or start the launcher on one"
        return (Finding(code="slurm-programs-missing", severity=Severity.WARNING, message=message, hint=hint),)

    def plan(self, job: JobSpec, options: Spec) -> SubmissionPlan:
        """One sbatch script, and what the submission adds to it."""
        assert isinstance(options, SlurmOptions)
        return plan_jobs([job], options)

    def largest_array(self, options: Spec) -> int:
        """As the options say: planning asks the cluster nothing."""
        assert isinstance(options, SlurmOptions)
        return options.max_array_size

    def plan_array(self, jobs: Sequence[JobSpec], options: Spec, at_most: int | None) -> SubmissionPlan:
        """One sbatch script for all, of which each runs its own part."""
        assert isinstance(options, SlurmOptions)
        return plan_jobs(jobs, options, array_of(len(jobs), at_most))

    def submit(self, plan: SubmissionPlan, key: str) -> JobHandle:
        """Hand the script to sbatch, or find what `key` has: a lock in the run's directory decides between two."""
        return _submit(plan, key, ())[0]

    def submit_array(self, plan: SubmissionPlan, key: str) -> Sequence[JobHandle]:
        """The same, for an array: a handle for each of its jobs."""
        return _submit(plan, key, ())

    def submit_after(self, plan: SubmissionPlan, key: str, after: Sequence[JobHandle]) -> JobHandle:
        """By `--dependency`, on those of `after` that have not succeeded yet. One that has failed is not waited for."""
        statuses = self.status(after)
        failed = [handle for handle in after if _cannot_be_waited_for(statuses[handle])]
        if failed:
            return _refuse_to_start(plan, key, failed[0], statuses[failed[0]])
        waiting = [handle for handle in after if statuses[handle].state is not JobState.SUCCEEDED]
        return _submit(plan, key, waiting)[0]

    def status(self, handles: Sequence[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        """One squeue for all, and one sacct for those that it has forgotten; for each login node."""
        places = {handle: JobPlace.of(handle) for handle in handles}
        answers: dict[JobHandle, JobStatus] = {}
        for login in dict.fromkeys(place.login for place in places.values()):
            answers.update(_statuses(login, {one: place for one, place in places.items() if place.login == login}))
        return {handle: answers[handle] for handle in handles}

    def logs(self, handle: JobHandle, replica: int = 0, follow: bool = False, since: int = 0) -> Iterator[bytes]:
        """What node `replica` wrote, output and errors in order, over all attempts."""
        place = JobPlace.of(handle)
        if not place.run_dir:
            return iter(())
        if not 0 <= replica < place.num_nodes:
            allowed = "only 0 is allowed" if place.num_nodes == 1 else f"0 to {place.num_nodes - 1} are allowed"
            raise InvalidExperiment(f"--replica {replica}: the job has {place.num_nodes} node(s); {allowed}")
        return self._pieces(handle, place, replica, follow, since)

    def _pieces(self, handle: JobHandle, place: JobPlace, replica: int, follow: bool, since: int) -> Iterator[bytes]:
        path, offset = f"{place.run_dir}/logs/replica-{replica}.log", since
        pause = _FOLLOW_PAUSE_OVER_SSH_SECONDS if place.login.ssh else _FOLLOW_PAUSE_SECONDS
        has_ended, asked_at = not follow, -_STATUS_PAUSE_SECONDS
        while True:
            # Asked before reading: what was written before the end is read after it was known.
            if not has_ended and time.monotonic() - asked_at >= _STATUS_PAUSE_SECONDS:
                has_ended, asked_at = self.status([handle])[handle].state.is_terminal, time.monotonic()
            while piece := _piece(place.login, path, offset):
                offset += len(piece)
                yield piece
            if has_ended:
                return
            time.sleep(pause)

    def stop(self, handle: JobHandle) -> None:
        """By scancel: Slurm sends SIGTERM to all processes of the job, and SIGKILL after its `KillWait`."""
        place = JobPlace.of(handle)
        if not self.status([handle])[handle].state.is_terminal:
            place.login.ask("stop", directory=place.directory, id=handle.native_id)


def _piece(login: LoginNode, path: str, since: int) -> bytes:
    answer = login.ask("read", path=path, since=since, most_bytes=_PIECE_BYTES)
    return base64.b64decode(answer["base64"])


def _submit(plan: SubmissionPlan, key: str, after: Sequence[JobHandle]) -> list[JobHandle]:
    job = json.loads(plan.text_of(PLAN_FILE))
    login, places = LoginNode(tuple(job["ssh"]), job["python"]), _places(job, key)
    request = {
        "directories": [place.directory for place in places],
        "name": places[0].name,
        "script": plan.text_of(SCRIPT_FILE),
        "arguments": _arguments(job, places[0], after),
        "secrets": None,
        "secrets_needed": bool(job["secrets"]),
        "is_after": bool(after),
    }
    answer = login.ask("submit", **request)
    if answer.get("needs_secrets"):
        secrets = read_secrets(job["secrets"], Path(job["run_dirs"][0]))
        answer = login.ask("submit", **{**request, "secrets": secrets})
    if "refused" in answer:
        raise SubmissionRefused(f"Slurm did not take the job: {answer['refused']}")
    identity = str(answer["id"])
    ids = [f"{identity}_{number}" for number in range(len(places))] if job["is_array"] else [identity]
    return [place.handle(one) for one, place in zip(ids, places, strict=True)]


def _places(job: Mapping[str, Any], key: str) -> list[JobPlace]:
    """Where each job of a plan keeps its files. All are called by one name, which no other submission has."""
    login = LoginNode(tuple(job["ssh"]), job["python"])
    directory = key if _SAFE_KEY.fullmatch(key) else hashlib.sha256(key.encode()).hexdigest()
    digest = hashlib.sha256(json.dumps([job["run_dirs"][0], key]).encode()).hexdigest()[:12]
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", job["run"])[:60] + "." + digest
    return [
        JobPlace(login, run_dir, f"{run_dir}/slurm/{directory}", name, job["num_nodes"]) for run_dir in job["run_dirs"]
    ]


def _arguments(job: Mapping[str, Any], place: JobPlace, after: Sequence[JobHandle]) -> list[str]:
    """The planned arguments of sbatch, with what only the submission knows."""
    waiting = [f"--dependency=afterok:{':'.join(handle.native_id for handle in after)}", "--kill-on-invalid-dep=yes"]
    filled = {f"--job-name={NAME}": [f"--job-name={place.name}"], AFTER: waiting if after else []}
    return [argument for text in job["sbatch"] for argument in filled.get(text, [text])]


def _cannot_be_waited_for(status: JobStatus) -> bool:
    return status.state.is_terminal and status.state is not JobState.SUCCEEDED


def _refuse_to_start(plan: SubmissionPlan, key: str, failed: JobHandle, status: JobStatus) -> JobHandle:
    """A job that Slurm never gets, because one that it was to start after has ended, and not well."""
    place = _places(json.loads(plan.text_of(PLAN_FILE)), key)[0]
    ended = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    message = f"never started: job {failed.native_id}, which it was to start after, is {status.state}"
    verdict = JobStatus(state=JobState.STOPPED, cause=CauseKind.DEPENDENCY, ended_at=ended, message=message)
    place.login.ask("keep", verdicts={place.directory: verdict.to_document()}, is_new=True)
    return place.handle(_NEVER + place.name.rpartition(".")[2])


def _statuses(login: LoginNode, places: Mapping[JobHandle, JobPlace]) -> dict[JobHandle, JobStatus]:
    jobs = [{"id": handle.native_id, "directory": place.directory} for handle, place in places.items()]
    try:
        answer = login.ask("status", directories=[place.directory for place in places.values()], jobs=jobs)
    except Unavailable as error:
        return dict.fromkeys(places, JobStatus(state=JobState.UNKNOWN, message=error.message))
    words = {row[0]: SlurmWord.from_accounts(row) for row in answer["accounts"]}
    words.update({row[0]: SlurmWord.from_queue(row) for row in answer["queue"]})
    statuses, new = {}, {}
    for handle, place in places.items():
        documents = answer["documents"].get(place.directory, {})
        if "verdict" in documents:
            statuses[handle] = read_verdict(documents["verdict"])
            continue
        statuses[handle] = _status(words.get(handle.native_id), place, documents, answer["problem"])
        if statuses[handle].state.is_terminal and documents:
            new[place.directory] = statuses[handle].to_document()
    if new:
        login.ask("keep", verdicts=new, is_new=False)
    return statuses


def _status(
    word: SlurmWord | None, place: JobPlace, documents: Mapping[str, Mapping[str, Any]], problem: str
) -> JobStatus:
    if word is not None and word.name != place.name:
        word = None  # another job, to which Slurm gave the number anew
    if problem and not documents.get("state", {}).get("ended_at"):
        return JobStatus(state=JobState.UNKNOWN, message=f"Slurm cannot be asked: {problem}")
    return judge(word, documents)
