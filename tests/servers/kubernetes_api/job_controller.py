"""The Job controller: makes pods of Jobs, counts how they end, and says when a Job is over."""

from __future__ import annotations

import contextlib
import time
import uuid
from datetime import datetime
from typing import Any

from servers.kubernetes_api.store import ConflictError, Document, MissingError, Store, now

TRACKING = "batch.kubernetes.io/job-tracking"
INDEX = "batch.kubernetes.io/job-completion-index"
FAILURES = "batch.kubernetes.io/job-index-failure-count"
IGNORED = "batch.kubernetes.io/job-index-ignored-failure-count"
BACKOFF_SECONDS = 0.05


class Tally:
    """What the controller remembers of one Job beside its status."""

    def __init__(self) -> None:
        self.failures: dict[int, int] = {}
        self.ignored: dict[int, int] = {}
        self.succeeded: set[int] = set()
        self.failed_indexes: set[int] = set()
        self.not_before: dict[int, float] = {}
        self.started_at = time.monotonic()
        self.is_suspended = False


class JobController:
    """Looks at every Job whenever anything has changed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tallies: dict[str, Tally] = {}

    def reconcile(self) -> None:
        """One look at all Jobs."""
        for job in self._store.list("jobs", ""):
            with contextlib.suppress(MissingError):
                self._look_at(job)

    def _look_at(self, job: Document) -> None:
        tally = self._tallies.setdefault(job["metadata"]["uid"], Tally())
        pods = [pod for pod in self._store.list("pods", job["metadata"]["namespace"]) if _owner(pod) == _uid(job)]
        for pod in pods:
            if _is_tracked(pod) and pod["status"]["phase"] in ("Succeeded", "Failed"):
                self._count(job, tally, pod)
        if condition := _condition(job, "Complete") or _condition(job, "Failed"):
            self._clean_up(job, condition)
            return
        if target := _condition(job, "FailureTarget"):
            self._end_pods(pods)
            if not any(_is_active(pod) for pod in pods):
                self._add_condition(job, "Failed", target["reason"], target["message"])
            return
        self._go_on(job, tally, pods)

    def _go_on(self, job: Document, tally: Tally, pods: list[Document]) -> None:
        spec = job["spec"]
        if spec.get("suspend"):
            self._suspend(job, tally, pods)
            return
        if tally.is_suspended or "startTime" not in job["status"]:
            tally.started_at, tally.is_suspended = time.monotonic(), False
            self._set_status(job, {"startTime": now()})
            self._add_condition(job, "Suspended", "JobResumed", "Job resumed", "False", only_if_there=True)
        if time.monotonic() - tally.started_at > spec.get("activeDeadlineSeconds", float("inf")):
            message = "Job was active longer than specified deadline"
            self._add_condition(job, "FailureTarget", "DeadlineExceeded", message)
        elif len(tally.succeeded) == spec["completions"]:
            self._set_status(job, {"completionTime": now()})
            self._add_condition(job, "Complete", "CompletionsReached", "Reached expected number of succeeded pods")
        elif len(tally.failed_indexes) > spec.get("maxFailedIndexes", float("inf")):
            message = "Job has exceeded the specified maximal number of failed indexes"
            self._add_condition(job, "FailureTarget", "MaxFailedIndexesExceeded", message)
        elif tally.failed_indexes and len(tally.succeeded | tally.failed_indexes) == spec["completions"]:
            self._add_condition(job, "FailureTarget", "FailedIndexes", "Job has failed indexes")
        elif "backoffLimitPerIndex" not in spec and sum(tally.failures.values()) > spec.get("backoffLimit", 6):
            message = "Job has reached the specified backoff limit"
            self._add_condition(job, "FailureTarget", "BackoffLimitExceeded", message)
        else:
            self._make_pods(job, tally, pods)
        active = sum(1 for pod in pods if _is_active(pod))
        self._set_status(job, {"active": active, "succeeded": len(tally.succeeded)})

    def _suspend(self, job: Document, tally: Tally, pods: list[Document]) -> None:
        self._end_pods(pods)
        tally.is_suspended = True
        if not _condition(job, "Suspended"):
            self._add_condition(job, "Suspended", "JobSuspended", "Job suspended")
        self._set_status(job, {"active": sum(1 for pod in pods if _is_active(pod))})

    def _make_pods(self, job: Document, tally: Tally, pods: list[Document]) -> None:
        held = {_index(pod) for pod in pods if _is_active(pod)} | tally.succeeded | tally.failed_indexes
        for index in range(job["spec"]["completions"]):
            room = len([pod for pod in pods if _is_active(pod)]) < job["spec"]["parallelism"]
            if index not in held and room and time.monotonic() >= tally.not_before.get(index, 0.0):
                with contextlib.suppress(ConflictError):
                    pods.append(self._store.create("pods", _pod(job, index, tally)))

    def _count(self, job: Document, tally: Tally, pod: Document) -> None:
        """Count a pod that has ended, once; then let go of it."""
        index = _index(pod)
        if pod["status"]["phase"] == "Succeeded":
            tally.succeeded.add(index)
        elif not _condition(job, "FailureTarget") and not job["spec"].get("suspend"):
            self._count_failure(job, tally, pod, index)

        def let_go(document: Document) -> None:
            document["metadata"]["finalizers"].remove(TRACKING)

        self._store.change("pods", pod["metadata"]["namespace"], pod["metadata"]["name"], let_go)

    def _count_failure(self, job: Document, tally: Tally, pod: Document, index: int) -> None:
        action, rule = _action(job, pod)
        tally.not_before[index] = time.monotonic() + BACKOFF_SECONDS
        if action == "Ignore":
            tally.ignored[index] = tally.ignored.get(index, 0) + 1
            return
        tally.failures[index] = tally.failures.get(index, 0) + 1
        if tally.failures[index] > job["spec"].get("backoffLimitPerIndex", float("inf")) or action == "FailIndex":
            tally.failed_indexes.add(index)
        if action == "FailJob":
            message = f"{_why(job, pod, rule)} matching {action} rule at index {rule}"
            self._add_condition(job, "FailureTarget", "PodFailurePolicy", message)

    def _end_pods(self, pods: list[Document]) -> None:
        for pod in pods:
            if _is_active(pod) and not pod["metadata"].get("deletionTimestamp"):
                with contextlib.suppress(MissingError):
                    self._store.delete("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])

    def _clean_up(self, job: Document, condition: Document) -> None:
        keep_seconds = job["spec"].get("ttlSecondsAfterFinished")
        if keep_seconds is None:
            return
        ended = datetime.fromisoformat(condition["lastTransitionTime"]).timestamp()
        if time.time() - ended > keep_seconds:
            self._store.delete("jobs", job["metadata"]["namespace"], job["metadata"]["name"])

    def _set_status(self, job: Document, change: Document) -> None:
        def apply(document: Document) -> None:
            document["status"].update(change)

        job["status"] = self._store.change("jobs", job["metadata"]["namespace"], job["metadata"]["name"], apply)[
            "status"
        ]

    def _add_condition(
        self, job: Document, word: str, reason: str, message: str, status: str = "True", only_if_there: bool = False
    ) -> None:
        conditions = [one for one in job["status"].get("conditions", []) if one["type"] != word]
        if only_if_there and len(conditions) == len(job["status"].get("conditions", [])):
            return
        condition = {"type": word, "status": status, "reason": reason, "message": message}
        self._set_status(job, {"conditions": [*conditions, {**condition, "lastTransitionTime": now()}]})


def _pod(job: Document, index: int, tally: Tally) -> Document:
    """The pod of an index, as the controller makes it of the Job's template."""
    template: dict[str, Any] = job["spec"]["template"]
    name = job["metadata"]["name"]
    metadata = template.get("metadata") or {}
    labels = {
        **(metadata.get("labels") or {}), "batch.kubernetes.io/job-name": name, "job-name": name, INDEX: str(index),
        "batch.kubernetes.io/controller-uid": _uid(job), "controller-uid": _uid(job),
    }  # fmt: skip
    annotations = {**(metadata.get("annotations") or {}), INDEX: str(index)}
    if "backoffLimitPerIndex" in job["spec"]:
        annotations[FAILURES] = str(tally.failures.get(index, 0))
        if tally.ignored.get(index):
            annotations[IGNORED] = str(tally.ignored[index])
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": _uid(job), "controller": True}
    spec = {"hostname": f"{name}-{index}", **template["spec"]}
    containers = [
        {**one, "env": [*one.get("env", []), {"name": "JOB_COMPLETION_INDEX", "value": str(index)}]}
        for one in spec["containers"]
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{name}-{index}-{uuid.uuid4().hex[:5]}",
            "namespace": job["metadata"]["namespace"],
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [owner],
            "finalizers": [TRACKING, "test/kubelet"],
        },
        "spec": {**spec, "containers": containers},
        "status": {"phase": "Pending", "conditions": []},
    }


def _action(job: Document, pod: Document) -> tuple[str, int]:
    """What the first rule that fits says, and its number; `Count` where none does."""
    for number, rule in enumerate((job["spec"].get("podFailurePolicy") or {"rules": []})["rules"]):
        if codes := rule.get("onExitCodes"):
            ended = (pod["status"].get("containerStatuses") or [{}])[0].get("state", {}).get("terminated") or {}
            code = ended.get("exitCode")
            if code and (code in codes["values"]) is (codes["operator"] == "In"):
                return rule["action"], number
        wanted = {(one["type"], one.get("status", "True")) for one in rule.get("onPodConditions") or ()}
        if wanted & {(one["type"], one["status"]) for one in pod["status"].get("conditions", ())}:
            return rule["action"], number
    return "Count", -1


def _why(job: Document, pod: Document, number: int) -> str:
    """In the words of the Job controller."""
    name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
    rule = job["spec"]["podFailurePolicy"]["rules"][number]
    if "onPodConditions" in rule:
        return f"Pod {name} has condition {rule['onPodConditions'][0]['type']}"
    status = pod["status"]["containerStatuses"][0]
    code = status["state"]["terminated"]["exitCode"]
    return f"Container {status['name']} for pod {name} failed with exit code {code}"


def _condition(job: Document, word: str) -> Document | None:
    conditions = job["status"].get("conditions", [])
    return next((one for one in conditions if one["type"] == word and one["status"] == "True"), None)


def _uid(document: Document) -> str:
    return str(document["metadata"]["uid"])


def _owner(pod: Document) -> str:
    return next((str(one["uid"]) for one in pod["metadata"].get("ownerReferences", ())), "")


def _index(pod: Document) -> int:
    return int(pod["metadata"]["annotations"][INDEX])


def _is_tracked(pod: Document) -> bool:
    return TRACKING in pod["metadata"].get("finalizers", ())


def _is_active(pod: Document) -> bool:
    """Whether it holds its index: also while it goes, until it has failed (podReplacementPolicy: Failed)."""
    return pod["status"]["phase"] not in ("Succeeded", "Failed")
