"""An image target of the repository: what its Dockerfile says it is put together from."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from tunewright.contracts.errors import NotFound
from tunewright.env_builder.inputs import RESOLVE

_ARGUMENT = re.compile(r"^ARG (\w+)=(\S+/\S+)$", re.MULTILINE)
_COPY = re.compile(r"^COPY (?!--from)(.+)$", re.MULTILINE)
_ENTRYPOINT = re.compile(r"^ENTRYPOINT (\[.*\])$", re.MULTILINE)
_PEX = re.compile(r"^([\w.-]+)/([\w-]+)\.pex$")

_ALWAYS = (
    "pants.toml",
    "pants",
    ".pants.bootstrap",
    "BUILD",
    "build-support",
    "3rdparty",
    "images/BUILD",
    "images/unpack.py",
)
_TRAINER_CODE = ("components/contracts", "components/trainer", "plugins/notify-webhook", "trainers")
_ALL_CODE = ("components", "plugins", "trainers")
_CODE = {"trainer-cpu": _TRAINER_CODE, "trainer-cuda": _TRAINER_CODE, "offline": _TRAINER_CODE, "inference": ()}
_RESOLVES = {"launcher": "tools", "dataset-cacher": "tools", "trainer-cuda": "train-cuda"}


@dataclass(frozen=True)
class ImageTarget:
    """A folder with a Dockerfile."""

    folder: str
    """Relative to the project: `images/trainer-cpu`."""

    dockerfile: str
    """Its text."""

    @property
    def name(self) -> str:
        """`trainer-cpu`."""
        return self.folder.rpartition("/")[2]

    @property
    def address(self) -> str:
        """As Pants calls it."""
        return f"{self.folder}:{self.name}"

    @property
    def bases(self) -> dict[str, str]:
        """Build arguments that are images of this repository: argument to Pants address."""
        return dict(_ARGUMENT.findall(self.dockerfile))

    @property
    def copied(self) -> list[str]:
        """Everything that comes from outside, as the Dockerfile calls it."""
        return sorted({source for line in _COPY.findall(self.dockerfile) for source in line.split()[:-1]})

    @property
    def pexes(self) -> dict[str, str]:
        """Packaged programs: Pants address to the path in the build's context."""
        found = ((_PEX.match(source), source) for source in self.copied)
        return {f"{match[1].replace('.', '/')}:{match[2]}": source for match, source in found if match}

    @property
    def files(self) -> list[str]:
        """Files and directories of the repository."""
        return [source for source in self.copied if not _PEX.match(source)]

    @property
    def command(self) -> tuple[str, ...]:
        """The program its own ENTRYPOINT names, without the init process before it. Empty without one."""
        match = _ENTRYPOINT.search(self.dockerfile)
        words = json.loads(match[1]) if match else []
        return tuple(words[2:] if words[:2] == ["tini", "--"] else words)

    def command_in(self, root: Path) -> tuple[str, ...]:
        """The program that runs in it: its own, or that of the image it starts from."""
        lower = (find_target(root, address) for address in self.bases.values() if not is_base(address))
        return self.command or next((target.command_in(root) for target in lower), ())

    @property
    def resolve(self) -> str:
        """The resolve of its third-party packages."""
        return _RESOLVES.get(self.name, RESOLVE)

    def deciding_paths(self, root: Path) -> tuple[str, ...]:
        """Every place in the repository that decides what is in it."""
        folders = {self.folder, *(address.partition(":")[0] for address in self.bases.values())}
        for address in self.bases.values():
            if not is_base(address):
                folders |= {*find_target(root, address).deciding_paths(root)}
        return tuple(sorted({*_ALWAYS, *_CODE.get(self.name, _ALL_CODE), *folders}))


def is_base(address: str) -> bool:
    """Whether the image is an operating system, which Pants makes as a whole."""
    return address.partition(":")[0].rpartition("/")[2] == "base"


def is_target(root: Path, reference: str) -> bool:
    """Whether `reference` means a folder of the project, not an image in a registry."""
    return (root / reference.partition(":")[0] / "Dockerfile").is_file()


def find_target(root: Path, reference: str) -> ImageTarget:
    """The target that `images/trainer-cpu` or `images/trainer-cpu:trainer-cpu` means. Raises NotFound listing all."""
    folder = reference.partition(":")[0].strip("/")
    try:
        return ImageTarget(folder, (root / folder / "Dockerfile").read_text(encoding="utf-8"))
    except OSError:
        there = sorted(path.parent.relative_to(root).as_posix() for path in root.glob("images/*/Dockerfile"))
        listed = ", ".join(name for name in there if not is_base(name)) or "none"
        hint = f"there are: {listed}; or give a reference with a digest, name@sha256:..."
        raise NotFound(f"`{reference}`: no such image target in {root}", hint) from None
