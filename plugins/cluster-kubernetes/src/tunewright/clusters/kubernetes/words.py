"""Every word Kubernetes has for how a job or a pod is, and what it means to us."""

from __future__ import annotations

from collections.abc import Mapping

from tunewright.contracts.status import CauseKind, JobState

CONDITIONS: Mapping[str, JobState] = {
    # batch/v1 Job
    "Complete": JobState.SUCCEEDED,
    "Failed": JobState.FAILED,
    "Suspended": JobState.QUEUED,
    "FailureTarget": JobState.RUNNING,
    "SuccessCriteriaMet": JobState.RUNNING,
    # JobSet and TrainJob
    "Completed": JobState.SUCCEEDED,
    "StartupPolicyInProgress": JobState.STARTING,
    "StartupPolicyCompleted": JobState.RUNNING,
}
"""Conditions of the job's object, where their status is True. The first of these that ends it wins."""

FAILURE_REASONS: Mapping[str, JobState] = {
    # batch/v1 Job
    "BackoffLimitExceeded": JobState.FAILED,
    "DeadlineExceeded": JobState.TIMED_OUT,
    "FailedIndexes": JobState.FAILED,
    "MaxFailedIndexesExceeded": JobState.FAILED,
    "PodFailurePolicy": JobState.FAILED,
    # JobSet
    "FailJobSetAction": JobState.FAILED,
    "FailedJobs": JobState.FAILED,
    "ReachedMaxRestarts": JobState.FAILED,
}
"""Why a job's condition `Failed` is True."""

POD_PHASES: Mapping[str, JobState] = {
    "Pending": JobState.STARTING,
    "Running": JobState.RUNNING,
    "Succeeded": JobState.RUNNING,
    "Failed": JobState.REQUEUED,
    "Unknown": JobState.UNKNOWN,
}
"""What a pod's phase means for a job that has not ended. A pod that no node has yet is QUEUED."""

WAITING_REASONS: Mapping[str, CauseKind | None] = {
    "ContainerCreating": None,
    "PodInitializing": None,
    "CrashLoopBackOff": None,
    "CreateContainerConfigError": None,
    "CreateContainerError": None,
    "ErrImageNeverPull": CauseKind.IMAGE_MISSING,
    "ErrImagePull": CauseKind.IMAGE_MISSING,
    "ImageInspectError": CauseKind.IMAGE_MISSING,
    "ImagePullBackOff": CauseKind.IMAGE_MISSING,
    "InvalidImageName": CauseKind.IMAGE_MISSING,
    "RegistryUnavailable": None,
    "RunContainerError": None,
}
"""Why a container waits. Waiting is no end: the node tries again, unless an image is surely not to be had."""

TERMINATED_REASONS: Mapping[str, CauseKind] = {
    "Completed": CauseKind.EXIT,
    "ContainerCannotRun": CauseKind.EXIT,
    "ContainerStatusUnknown": CauseKind.NODE_LOST,
    "DeadlineExceeded": CauseKind.TIMEOUT,
    "Error": CauseKind.EXIT,
    "OOMKilled": CauseKind.OUT_OF_MEMORY,
    "StartError": CauseKind.EXIT,
}
"""Why a container has ended."""

DISRUPTIONS: Mapping[str, CauseKind] = {
    "DeletionByPodGC": CauseKind.NODE_LOST,
    "DeletionByTaintManager": CauseKind.NODE_LOST,
    "EvictionByEvictionAPI": CauseKind.EVICTED,
    "PreemptionByScheduler": CauseKind.PREEMPTED,
    "TerminationByKubelet": CauseKind.EVICTED,
}
"""Reasons of a pod's condition `DisruptionTarget`."""

POD_REASONS: Mapping[str, CauseKind] = {
    "DeadlineExceeded": CauseKind.TIMEOUT,
    "Evicted": CauseKind.EVICTED,
    "NodeAffinity": CauseKind.EVICTED,
    "NodeLost": CauseKind.NODE_LOST,
    "NodeShutdown": CauseKind.NODE_LOST,
    "Preempting": CauseKind.PREEMPTED,
    "Shutdown": CauseKind.NODE_LOST,
    "Terminated": CauseKind.NODE_LOST,
    "UnexpectedAdmissionError": CauseKind.EVICTED,
}
"""Reasons of a whole pod."""

SURELY_MISSING = ("not found", "manifest unknown", "does not exist", "denied", "unauthorized", "no such image")
"""What a registry says of an image that will not be there at the next try either."""
