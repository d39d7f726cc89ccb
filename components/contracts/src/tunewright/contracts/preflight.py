"""What preflight found: each finding with a stable code, so that it can be counted and looked up."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from tunewright.contracts.spec import Spec


class Severity(StrEnum):
    """How bad a finding is. Only `error` refuses the run."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Finding(Spec):
    """One thing preflight, or a cluster's `check`, has to say."""

    code: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    """Stable and searchable, such as `git-tree-dirty`."""

    severity: Severity = Severity.ERROR
    """How bad it is."""

    path: str = ""
    """The field of the experiment as the user wrote it, or empty."""

    message: str
    """What is so, with the value and what is allowed."""

    hint: str = ""
    """The next step, or empty."""

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        text = f"{where}{self.message} [{self.code}]"
        return f"{text}\n    hint: {self.hint}" if self.hint else text


class PreflightReport(Spec):
    """Everything preflight found, in the order it was found."""

    findings: tuple[Finding, ...] = ()
    """All of them, also those that refuse nothing."""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that refuse the run."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.ERROR)
