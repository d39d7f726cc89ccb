"""What became of a job: one vocabulary of states for every cluster, and the cause as data."""

from __future__ import annotations

from enum import StrEnum

from tunewright.contracts.spec import Spec


class JobState(StrEnum):
    """A job's state. Each cluster maps its vendor's words to these in one complete table."""

    PENDING = "PENDING"
    """Accepted by us, not yet by the cluster."""
    QUEUED = "QUEUED"
    """Waiting for resources."""
    STARTING = "STARTING"
    """Resources are there; the command has not started."""
    RUNNING = "RUNNING"
    PREEMPTED = "PREEMPTED"
    """Taken off its resources by the cluster; not started again yet."""
    REQUEUED = "REQUEUED"
    """Waiting to be started again."""
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"
    """Ended because a user asked for it."""
    TIMED_OUT = "TIMED_OUT"
    """Ended by its time limit."""
    NOT_FOUND = "NOT_FOUND"
    """The cluster knows no such job."""
    UNKNOWN = "UNKNOWN"
    """The cluster said a word we do not know, or could not be asked."""

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended for good."""
        return self in _TERMINAL


_TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.STOPPED, JobState.TIMED_OUT, JobState.NOT_FOUND})


class CauseKind(StrEnum):
    """Why a job ended the way it did."""

    EXIT = "exit"
    """Its command ended with an exit code."""
    SIGNAL = "signal"
    """Its command was killed by a signal that nobody we know of sent."""
    OUT_OF_MEMORY = "out_of_memory"
    NODE_LOST = "node_lost"
    """The machine, or what watched the job on it, went away."""
    TIMEOUT = "timeout"
    PREEMPTED = "preempted"
    EVICTED = "evicted"
    """The machine ran short of something and put it out."""
    DEPENDENCY = "dependency"
    """A job that it was to start after has not succeeded."""
    STOPPED = "stopped"
    """A user asked for it."""
    IMAGE_MISSING = "image_missing"
    """The environment could not be started."""


_PASSING = frozenset({CauseKind.PREEMPTED, CauseKind.EVICTED, CauseKind.NODE_LOST})
"""Causes that may not be there at the next try."""


class JobStatus(Spec):
    """A job's state at one moment. Times are ISO 8601 in UTC."""

    state: JobState
    """In our words, whatever the cluster calls it."""

    cause: CauseKind | None = None
    """Why it ended as it did. None while it runs, and where nobody knows."""

    exit_code: int | None = None
    """What the command returned, where it returned."""

    signal: int | None = None
    """The signal that ended the command, where one did."""

    attempt: int = 0
    """0 for the first start, 1 for the first retry, and so on."""

    started_at: str | None = None
    """When its command first started, where it did."""

    ended_at: str | None = None
    """When it ended, where it has."""

    message: str = ""
    """One sentence for people, in the cluster's own words where it has any."""

    @property
    def shell_exit_code(self) -> int:
        """What `launch` and `wait` exit with: 42 stays 42, a signal is 128+n, 75 where trying again may help.

        Only meaningful for a terminal state.
        """
        if self.state is JobState.SUCCEEDED:
            return 0
        if self.state is JobState.NOT_FOUND:
            return 66
        if self.state in (JobState.STOPPED, JobState.TIMED_OUT):
            return 75
        if self.signal is not None:
            return 128 + self.signal
        if self.exit_code:
            return self.exit_code
        if self.cause is CauseKind.OUT_OF_MEMORY:
            return 137
        return 75 if self.cause in _PASSING else 1
