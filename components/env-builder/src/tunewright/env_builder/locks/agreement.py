"""Whether a lock is what was asked for, and whether locks agree with each other: by content, never by file times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunewright.contracts.preflight import Finding
from tunewright.env_builder.locks.requirement_files import LockEntry, RequirementLine

if TYPE_CHECKING:
    from packaging.requirements import Requirement

REFRESH = "3rdparty/python/refresh-locks"
"""The command that locks anew."""

# Locks are made for the machines that train: a requirement for other systems is not in them.
_LOCKED_FOR = {
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_system": "Linux",
    "python_full_version": "3.11.0",
    "python_version": "3.11",
    "sys_platform": "linux",
}


@dataclass(frozen=True)
class Resolve:
    """One resolve: what was asked for, and its lock."""

    name: str
    lock_path: str
    requirements: tuple[RequirementLine, ...]
    entries: tuple[LockEntry, ...]
    lines_with_hosts: tuple[int, ...] = ()

    @property
    def hint(self) -> str:
        """The next step, where its lock is not what was asked for."""
        return f"lock it anew: {REFRESH} {self.name}"


@dataclass(frozen=True)
class SharedPins:
    """Two resolves that must have the same versions."""

    followed: str
    following: str
    reason: str
    packages: tuple[str, ...] = ()
    """Only these. Empty: every package that both have."""


SHARED = (
    SharedPins(
        "tools", "train-cpu", "the dataset's ids and the trainer's must come from one tokenizer", ("tokenizers",)
    ),
    SharedPins("train-cpu", "train-cuda", "what is tried on CPUs must be what runs on GPUs"),
    SharedPins("train-cuda", "flash-attn-build", "flash-attn must be built against what it runs with"),
)
"""Which resolves must agree. Local versions (`+cpu`) do not count."""


def find_resolve_problems(resolve: Resolve) -> list[Finding]:
    """What is wrong with one resolve, in the order of its files."""
    problems = [problem for line in resolve.requirements for problem in _requirement_problems(line, resolve)]
    problems += [problem for entry in resolve.entries for problem in _entry_problems(entry, resolve)]
    for number in resolve.lines_with_hosts:
        message = "names a host or a place to fetch from; a lock holds names, versions and hashes alone"
        problems.append(_finding("lock-names-a-host", f"{resolve.lock_path}:{number}", message, resolve.hint))
    return problems


def find_disagreements(resolves: Mapping[str, Resolve], shared: Sequence[SharedPins] = SHARED) -> list[Finding]:
    """The packages that two locks must have in one version, and have not."""
    problems = []
    for pins in shared:
        if pins.followed in resolves and pins.following in resolves:
            problems += _pair_problems(pins, resolves[pins.followed], resolves[pins.following])
    return problems


def parse_requirement(text: str) -> Requirement | None:
    """What one line asks for, None where it is not a requirement."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        return Requirement(text)
    except InvalidRequirement:
        return None


def _requirement_problems(line: RequirementLine, resolve: Resolve) -> list[Finding]:
    where = f"{line.path}:{line.line}"
    requirement = parse_requirement(line.text)
    if requirement is None:
        message = f"`{line.text}` is not a requirement, such as `torch==2.13.0` or `numpy>=2`"
        return [_finding("lock-requirement-unreadable", where, message)]
    if requirement.marker is not None and not requirement.marker.evaluate(_LOCKED_FOR):
        return []
    name = _normal(requirement.name)
    locked = [entry for entry in resolve.entries if entry.name == name]
    if not locked:
        message = f"`{line.text}` is asked for and not in {resolve.lock_path}"
        return [_finding("lock-requirement-missing", where, message, resolve.hint)]
    return [
        _finding(
            "lock-version-not-allowed",
            where,
            f"`{line.text}` does not allow {entry.name} {entry.version}, which {resolve.lock_path}:{entry.line} has",
            resolve.hint,
        )
        for entry in locked
        if is_version(entry.version) and not requirement.specifier.contains(entry.version or "", prereleases=True)
    ]


def _entry_problems(entry: LockEntry, resolve: Resolve) -> list[Finding]:
    where = f"{resolve.lock_path}:{entry.line}"
    problems = []
    if not is_version(entry.version):
        message = f"{entry.name} must be pinned as `{entry.name}==VERSION`"
        problems.append(_finding("lock-entry-not-pinned", where, message, resolve.hint))
    if not entry.num_hashes:
        message = f"{entry.name} has no `--hash=sha256:...`: what is installed could be anything"
        problems.append(_finding("lock-without-hash", where, message, resolve.hint))
    return problems


def _pair_problems(pins: SharedPins, followed: Resolve, following: Resolve) -> list[Finding]:
    versions = {entry.name: entry for entry in followed.entries if is_version(entry.version)}
    problems = []
    for entry in following.entries:
        other = versions.get(entry.name)
        if other is None or not is_version(entry.version) or (pins.packages and entry.name not in pins.packages):
            continue
        if _public(entry) != _public(other):
            message = f"{entry.name} is {entry.version}, and {other.version} in {followed.lock_path}: {pins.reason}"
            hint = f"lock both anew: {REFRESH} {followed.name} {following.name}"
            problems.append(_finding("locks-disagree", f"{following.lock_path}:{entry.line}", message, hint))
    return problems


def is_version(text: str | None) -> bool:
    """Whether `text` is a version as packages have them."""
    from packaging.version import InvalidVersion, Version

    try:
        return text is not None and bool(Version(text))
    except InvalidVersion:
        return False


def _public(entry: LockEntry) -> str:
    from packaging.version import Version

    return Version(entry.version or "").public


def _normal(name: str) -> str:
    from packaging.utils import canonicalize_name

    return canonicalize_name(name)


def _finding(code: str, path: str, message: str, hint: str = "") -> Finding:
    return Finding(code=code, path=path, message=message, hint=hint)
