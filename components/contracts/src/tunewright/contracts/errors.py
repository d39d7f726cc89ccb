"""Every error a user can meet, and the exit code each one ends with.

    TunewrightError                        exit code
    ├── UsageError (ValueError)            64   an unknown option or command, a missing argument
    ├── IntegrityError (ValueError)        65   something does not match its digest
    │   ├── CacheCorrupted
    │   ├── CheckpointCorrupted
    │   └── RecordMismatch
    ├── NotFound (LookupError)             66   no such file, run, dataset, image
    ├── Unavailable (RuntimeError)         69   a cluster, registry, daemon or network, or a build
    │   ├── EnvironmentBuildFailed
    │   └── SubmissionRefused
    ├── RunStopped (RuntimeError)          75   stopped or preempted: trying again may help
    ├── TrainingDiverged (ArithmeticError)  1   the loss or a gradient is not a finite number
    ├── PreflightFailed (RuntimeError)     77   carries the report
    └── InvalidExperiment (ValueError)     78   the file, an option or a plugin is wrong; carries every problem
        ├── UnknownPlugin (LookupError)         carries the name asked for and the names installed
        ├── DuplicatePlugin                     names both distributions
        ├── BrokenPlugin                        names the plugin and its cause
        └── InvalidDataset                      a row, template or source that cannot be used

To add one: subclass the closest class above, inherit the built-in it refines so that existing `except`
clauses keep working, and pass everything to `super().__init__` so that it pickles (errors cross process
borders). A test walks the tree and checks all of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from tunewright.contracts.preflight import PreflightReport


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, where it is wrong, and what to do about it."""

    path: str
    """The field as the user wrote it (`cluster.nodes`), or the file and line of a data row."""

    message: str
    """What is wrong: the value given and what is allowed."""

    hint: str = ""
    """The next step, where there is one. Empty where there is none."""

    def __str__(self) -> str:
        text = f"{self.path}: {self.message}" if self.path else self.message
        return f"{text}\n    hint: {self.hint}" if self.hint else text


class TunewrightError(Exception):
    """The root of the tree. `message` is for people; `hint` is the next step, or empty."""

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class UsageError(TunewrightError, ValueError):
    """The command line is wrong."""

    exit_code = 64


class IntegrityError(TunewrightError, ValueError):
    """A cache, checkpoint or record does not match its digest."""

    exit_code = 65


class CacheCorrupted(IntegrityError):
    """A dataset cache does not match its manifest. It is never trained on."""


class CheckpointCorrupted(IntegrityError):
    """A checkpoint does not match its `checkpoint.json`. It is never resumed from."""


class RecordMismatch(IntegrityError):
    """A reproduced run, or a run directory, differs from its record."""


class NotFound(TunewrightError, LookupError):
    """There is no such file, run, dataset or image."""

    exit_code = 66


class Unavailable(TunewrightError, RuntimeError):
    """A cluster, registry, daemon or network could not be reached."""

    exit_code = 69


class EnvironmentBuildFailed(Unavailable):
    """The environment could not be built. The message names the command and its log."""


class SubmissionRefused(Unavailable):
    """The cluster did not take the job. The message carries the cluster's own words."""


class RunStopped(TunewrightError, RuntimeError):
    """The run was stopped or preempted before its end."""

    exit_code = 75


class TrainingDiverged(TunewrightError, ArithmeticError):
    """The loss or a gradient is not a finite number any more. The message names the step; nothing of it is saved."""

    exit_code = 1


class PreflightFailed(TunewrightError, RuntimeError):
    """Preflight found something that makes the run pointless to start. Carries the report."""

    exit_code = 77

    def __init__(self, message: str, hint: str = "", report: PreflightReport | None = None) -> None:
        super().__init__(message, hint)
        self.args = (message, hint, report)
        self.report = report


class InvalidExperiment(TunewrightError, ValueError):
    """The experiment file, a plugin option or a plugin is wrong. Carries every problem, not the first."""

    exit_code = 78

    def __init__(self, message: str, hint: str = "", problems: Sequence[Problem] = ()) -> None:
        super().__init__(message, hint)
        self.problems = tuple(problems)
        self.args = (message, hint, self.problems)

    @classmethod
    def from_problems(cls, source: str, problems: Sequence[Problem]) -> InvalidExperiment:
        """An error that lists `problems`, found in `source` (a file name, or what was read)."""
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = "".join(f"\n  {problem}" for problem in problems)
        return cls(f"{source}: {count}{lines}", "", tuple(problems))


class UnknownPlugin(InvalidExperiment, LookupError):
    """Nothing by this name is installed. The message lists what is."""


class DuplicatePlugin(InvalidExperiment):
    """Two installed plugins claim one name. The message names both; neither wins silently."""


class BrokenPlugin(InvalidExperiment):
    """A plugin failed to load, or raised where it must not. The message names it and its cause."""


class InvalidDataset(InvalidExperiment):
    """A source, a row or a chat template cannot be turned into training data."""
