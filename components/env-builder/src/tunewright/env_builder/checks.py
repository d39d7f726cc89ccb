"""What speaks against building an environment here: findings, with stable codes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from tunewright.contracts.errors import PreflightFailed
from tunewright.contracts.preflight import Finding, PreflightReport, Severity
from tunewright.env_builder.interpreter import VERSION_TEXT, find_base_interpreter
from tunewright.env_builder.pants import find_pants

_WANTED_GIB = 8
"""The trainer's PEX, its unpacked form, and what Pants keeps on the way, with torch for the CPU: about 6 GiB."""


def refuse(what: str, findings: Sequence[Finding]) -> None:
    """Raise PreflightFailed with every error of `findings`, where there is one."""
    report = PreflightReport(findings=tuple(findings))
    if report.errors:
        lines = "".join(f"\n  {finding}" for finding in report.errors)
        raise PreflightFailed(f"{what}:{lines}", report=report)


def find_project_problems(root: Path, home: Path, program: str | None = "trainer") -> list[Finding]:
    """What is missing at `root` and on this machine to build into `home`. Reads only."""
    findings = []
    if not (root / "pants.toml").is_file() or not (program is None or (root / "components" / program).is_dir()):
        message = (
            f"{root} has no pants.toml with components/{program or '...'}: there is no {program or 'code'} to build"
        )
        hint = "run it from a checkout of Tunewright, or install a plugin that provides the environment"
        findings.append(Finding(code="environment-no-trainer-sources", message=message, hint=hint))
    if find_pants(root) is None:
        message = f"there is no `pants` script in {root} and no `pants` on PATH"
        findings.append(Finding(code="environment-no-pants", message=message, hint="check the file `pants` out again"))
    if shutil.which("git") is None:
        findings.append(Finding(code="environment-no-git", message="`git` is not on PATH", hint="install git"))
    if find_base_interpreter() is None:
        message = f"there is no Python {VERSION_TEXT} on this machine"
        hint = f"Debian, Ubuntu: apt-get install python{VERSION_TEXT} python{VERSION_TEXT}-venv"
        findings.append(Finding(code="environment-no-python", message=message, hint=hint))
    return [*findings, *_disk_findings(home)]


def _disk_findings(home: Path) -> list[Finding]:
    place = next(directory for directory in (home, *home.parents) if directory.exists())
    free_gib = shutil.disk_usage(place).free / 2**30
    if free_gib >= _WANTED_GIB:
        return []
    message = f"{place} has {free_gib:.1f} GiB free; building an environment takes up to {_WANTED_GIB} GiB"
    hint = "make room, or set TUNEWRIGHT_HOME to a larger disk"
    return [Finding(code="environment-disk-space", severity=Severity.WARNING, message=message, hint=hint)]
