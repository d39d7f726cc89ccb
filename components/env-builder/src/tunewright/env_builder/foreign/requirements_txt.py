"""`requirements.txt`: as pip reads it, and every file it includes; what pip would look up elsewhere stays behind."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet

from tunewright.contracts.errors import InvalidExperiment, NotFound
from tunewright.env_builder.foreign.draft import LockDraft, without_secrets
from tunewright.env_builder.foreign.lock import ForeignLock
from tunewright.env_builder.foreign.target import Target

_COMMENT = re.compile(r"(^|\s)#.*$")
_VARIABLE = re.compile(r"\$\{[A-Z0-9_]+\}")
_OPTIONS = re.compile(r"\s(?=--?[A-Za-z])")
_PLACE = re.compile(r"^(?:[a-z0-9]+\+|\.{0,2}/|[a-z]+://|file:)|\.(?:whl|zip|tar\.gz|tar\.bz2|tgz)$", re.IGNORECASE)

_ELSEWHERE = "pip's own configuration decides where packages come from"
_NOT_TAKEN = {
    "-i": _ELSEWHERE,
    "--index-url": _ELSEWHERE,
    "--extra-index-url": _ELSEWHERE,
    "-f": _ELSEWHERE,
    "--find-links": _ELSEWHERE,
    "--no-index": _ELSEWHERE,
    "--trusted-host": _ELSEWHERE,
    "-c": "constraints are not applied; versions must be in the file itself",
    "--constraint": "constraints are not applied; versions must be in the file itself",
    "-e": "a project's own code is no part of an environment",
    "--editable": "a project's own code is no part of an environment",
    "--no-binary": "which kind of file is taken is up to pip, within the hashes",
    "--only-binary": "which kind of file is taken is up to pip, within the hashes",
    "--prefer-binary": "which kind of file is taken is up to pip, within the hashes",
    "--pre": "versions are exact",
    "--use-feature": "pip's own configuration decides how it works",
}
_INCLUDES = ("-r", "--requirement")
_REQUIRE_HASHES = "--require-hashes"

ReadFile = Callable[[str], str]
"""The text of an included file, by its path as seen from where the program runs. Raises NotFound."""


@dataclass(frozen=True)
class _Line:
    """A logical line, its continuations joined."""

    text: str
    where: str


def parse_requirements(text: str, source: str, target: Target, read_file: ReadFile) -> ForeignLock:
    """The requirements of `text`, those of the files it includes among them.

    Raises InvalidExperiment with every line that is wrong, NotFound for an included file that is not there.
    """
    draft = LockDraft("requirements.txt", source, target)
    reader = RequirementsReader(draft, read_file)
    reader.read(text, source)
    lock = reader.finish()
    if not (lock.pins or lock.loose or lock.left_out):
        raise InvalidExperiment(f"{source}: holds no requirement")
    return lock


class RequirementsReader:
    """Reads lines into a draft. Environment files of conda hold such lines too."""

    def __init__(self, draft: LockDraft, read_file: ReadFile) -> None:
        self._draft = draft
        self._read_file = read_file
        self._open: list[str] = []
        self._done: set[str] = set()
        self._hashes_required = False

    def read(self, text: str, source: str) -> None:
        """Every line of the file `source`."""
        self._open.append(posixpath.normpath(source))
        for line in _logical_lines(text, source):
            self.read_line(line.text, line.where)
        self._done.add(self._open.pop())

    def finish(self) -> ForeignLock:
        """The draft's lock, after what can only be said at the end."""
        lock = self._draft.finish()
        unhashed = [pin for pin in lock.pins if not pin.hashes] if self._hashes_required else []
        for pin in unhashed:
            self._draft.problem(pin.where, f"{pin.requirement} has no hash, and the file says {_REQUIRE_HASHES}")
        return self._draft.finish() if unhashed else lock

    def read_line(self, text: str, where: str) -> None:
        """One logical line."""
        if text.startswith("-"):
            self._read_option(text, where)
        elif text.startswith("@"):
            self._draft.problem(where, f"`{text}` is conda's; pip has no such line", "import the environment.yml")
        elif _VARIABLE.search(text):
            self._draft.leave_out(text, f"holds a variable, and may hold a secret ({where})")
        else:
            self._read_requirement(text, where)

    def _read_option(self, text: str, where: str) -> None:
        option, value = _split_option(text)
        if option in _INCLUDES:
            self._include(value, where)
        elif option == _REQUIRE_HASHES:
            self._hashes_required = True
        elif option in _NOT_TAKEN:
            self._draft.leave_out(f"{option} {value}".strip(), f"{_NOT_TAKEN[option]} ({where})")
        else:
            self._draft.problem(where, f"`{option}` is no option of a requirements file")

    def _include(self, value: str, where: str) -> None:
        if "://" in value:
            self._draft.leave_out(f"-r {value}", f"a file elsewhere is not fetched ({where})")
            return
        including = self._open[-1] if self._open else self._draft.source
        path = posixpath.normpath(posixpath.join(posixpath.dirname(including), value))
        if path in self._open:
            chain = " -> ".join([*self._open[self._open.index(path) :], path])
            self._draft.problem(where, f"the files include each other: {chain}")
            return
        if path in self._done:
            return
        try:
            text = self._read_file(path)
        except NotFound:
            raise NotFound(f"{where}: `-r {value}`: no such file: {path}") from None
        self.read(text, path)

    def _read_requirement(self, text: str, where: str) -> None:
        wanted, *options = _OPTIONS.split(text, maxsplit=1)
        hashes = self._hashes(options[0], where) if options else []
        if _PLACE.search(wanted.split(";")[0].strip()):
            self._draft.leave_out(wanted.strip(), f"from a place, not an index ({where})")
            return
        try:
            requirement = Requirement(wanted)
        except InvalidRequirement as error:
            said = str(error).splitlines()[0]
            self._draft.problem(where, f"`{without_secrets(wanted.strip())}` is no requirement: {said}")
            return
        marker = str(requirement.marker) if requirement.marker else None
        if requirement.url:
            self._draft.leave_out(f"{requirement.name} @ {requirement.url}", f"from a place, not an index ({where})")
        elif not self._draft.holds(marker, where):
            self._draft.leave_out(wanted.strip(), f"not for this machine: `{marker}` does not hold ({where})")
        elif version := exact_version(requirement.specifier):
            self._draft.pin(requirement.name, version, hashes, where, requirement.extras, marker)
        else:
            requirement.marker = None
            self._draft.loose(requirement.name, str(requirement), where)

    def _hashes(self, options: str, where: str) -> list[str]:
        hashes = []
        words = iter(_words(options))
        for word in words:
            name, _, value = word.partition("=")
            if name == "--hash":
                hashes.append(value or next(words, ""))
            else:
                self._draft.leave_out(f"{name} of a requirement", f"how a package is built is up to it ({where})")
        return hashes


def exact_version(specifier: SpecifierSet) -> str | None:
    """The one version that `specifier` allows, None where it may allow several."""
    exact = [one.version for one in specifier if one.operator in ("==", "===") and not one.version.endswith(".*")]
    return exact[0] if exact else None


def _split_option(text: str) -> tuple[str, str]:
    """`--index-url=URL`, `-r FILE` and `-rFILE` as the option and its value."""
    option, _, value = text.replace("=", " ", 1).partition(" ") if text.startswith("--") else text.partition(" ")
    if not text.startswith("--") and len(option) > len("-r"):
        option, value = option[:2], option[2:] + value
    return option, value.strip().strip("\"'")


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _logical_lines(text: str, source: str) -> Iterator[_Line]:
    parts: list[str] = []
    first = 0
    for number, line in enumerate(text.splitlines(), start=1):
        first = first if parts else number
        is_comment = line.lstrip().startswith("#")
        if line.endswith("\\") and not is_comment:
            parts.append(line[:-1])
            continue
        parts.append("" if is_comment else line)
        joined = _COMMENT.sub("", " ".join(parts)).strip()
        parts = []
        if joined:
            yield _Line(joined, f"{source}:{first}")
    joined = _COMMENT.sub("", " ".join(parts)).strip()
    if joined:
        yield _Line(joined, f"{source}:{first}")
