"""Tiny wheels made on the spot, and the files of other tools that would name them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Builds the wheel with nothing but itself: no other package, no network.
_BACKEND = """
import pathlib, zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    file = "{name}-{version}-py3-none-any.whl"
    info = "{name}-{version}.dist-info"
    with zipfile.ZipFile(pathlib.Path(directory) / file, "w") as archive:
        archive.writestr("{name}.py", "VERSION = '{version}'")
        archive.writestr(info + "/METADATA", "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        archive.writestr(info + "/WHEEL", {wheel!r})
        archive.writestr(info + "/RECORD", "{name}.py,,\\n" + info + "/METADATA,,\\n" + info + "/WHEEL,,\\n")
    return file
"""
_BUILD_SYSTEM = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
_WHEEL = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_INDEX = "https://example.invalid/simple"


@dataclass(frozen=True)
class Wheel:
    """A wheel of one module, which has its version."""

    name: str
    version: str
    requires: tuple[str, ...] = ()
    text: str = ""

    @property
    def file(self) -> str:
        """Its file name."""
        return f"{self.name}-{self.version}-py3-none-any.whl"

    def write(self, directory: Path) -> str:
        """Write it into `directory`; gives its SHA-256."""
        info = f"{self.name}-{self.version}.dist-info"
        requires = "".join(f"Requires-Dist: {one}\n" for one in self.requires)
        files = {
            f"{self.name}.py": f"VERSION = {self.version!r}\n{self.text}",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {self.name}\nVersion: {self.version}\n{requires}",
            f"{info}/WHEEL": _WHEEL,
        }
        files[f"{info}/RECORD"] = "".join(map(_record_line, files.items())) + f"{info}/RECORD,,\n"
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / self.file
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in files.items():
                archive.writestr(zipfile.ZipInfo(name, _EPOCH), text)
        return hashlib.sha256(path.read_bytes()).hexdigest()


def write_source_archive(directory: Path, name: str, version: str) -> Pinned:
    """A source archive that knows how to build its wheel; its digest is what a lock would have."""
    base = f"{name}-{version}"
    files = {
        f"{base}/PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{base}/pyproject.toml": _BUILD_SYSTEM,
        f"{base}/backend.py": _BACKEND.format(name=name, version=version, wheel=_WHEEL),
    }
    path = directory / f"{base}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for member, text in files.items():
            described = tarfile.TarInfo(member)
            described.size = len(text.encode())
            archive.addfile(described, io.BytesIO(text.encode()))
    return Pinned(Wheel(name, version), hashlib.sha256(path.read_bytes()).hexdigest())


def _record_line(file: tuple[str, str]) -> str:
    name, text = file[0], file[1].encode()
    digest = base64.urlsafe_b64encode(hashlib.sha256(text).digest()).decode().rstrip("=")
    return f"{name},sha256={digest},{len(text)}\n"


@dataclass(frozen=True)
class Pinned:
    """A wheel with the digest a lock has for it."""

    wheel: Wheel
    sha256: str


def requirements_txt(pinned: Sequence[Pinned], hashed: bool = True) -> str:
    """As pip-compile writes it."""
    lines = []
    for one in pinned:
        tail = f" \\\n    --hash=sha256:{one.sha256}" if hashed else ""
        lines.append(f"{one.wheel.name}=={one.wheel.version}{tail}\n")
    return "".join(lines)


def uv_lock(pinned: Sequence[Pinned]) -> str:
    """As uv writes it."""
    text = 'version = 1\nrevision = 3\nrequires-python = ">=3.11"\n'
    edges = "".join(f'    {{ name = "{one.wheel.name}" }},\n' for one in pinned)
    text += (
        f'\n[[package]]\nname = "demo"\nversion = "0.1.0"\nsource = {{ virtual = "." }}\ndependencies = [\n{edges}]\n'
    )
    for one in pinned:
        url = f"https://files.example.invalid/{one.wheel.file}"
        text += (
            f'\n[[package]]\nname = "{one.wheel.name}"\nversion = "{one.wheel.version}"\n'
            f'source = {{ registry = "{_INDEX}" }}\n'
            f'wheels = [\n    {{ url = "{url}", hash = "sha256:{one.sha256}", size = 900 }},\n]\n'
        )
    return text


def pylock_toml(pinned: Sequence[Pinned]) -> str:
    """As PEP 751 says."""
    text = 'lock-version = "1.0"\ncreated-by = "tests"\n'
    for one in pinned:
        hashes = f'hashes = {{ sha256 = "{one.sha256}" }}'
        text += (
            f'\n[[packages]]\nname = "{one.wheel.name}"\nversion = "{one.wheel.version}"\n'
            f'wheels = [{{ url = "https://files.example.invalid/{one.wheel.file}", {hashes} }}]\n'
        )
    return text


def poetry_lock(pinned: Sequence[Pinned]) -> str:
    """As Poetry 2 writes it."""
    text = ""
    for one in pinned:
        text += (
            f'[[package]]\nname = "{one.wheel.name}"\nversion = "{one.wheel.version}"\ndescription = ""\n'
            f'optional = false\npython-versions = ">=3.9"\ngroups = ["main"]\n'
            f'files = [\n    {{file = "{one.wheel.file}", hash = "sha256:{one.sha256}"}},\n]\n\n'
        )
    return text + '[metadata]\nlock-version = "2.1"\npython-versions = "^3.10"\ncontent-hash = "0"\n'


def conda_lock(pinned: Sequence[Pinned], platform: str) -> str:
    """As conda-lock writes it: the first package is conda's, the others are pip's. JSON is YAML too."""
    packages = []
    for index, one in enumerate(pinned):
        is_conda = index == 0
        file = f"{one.wheel.name}-{one.wheel.version}-pyhd8ed1ab_0.conda" if is_conda else one.wheel.file
        place = "https://conda.example.invalid/some-channel/noarch" if is_conda else "https://files.example.invalid"
        packages.append(
            {
                "name": one.wheel.name,
                "version": one.wheel.version,
                "manager": "conda" if is_conda else "pip",
                "platform": platform,
                "dependencies": {"python": ">=3.8"} if is_conda else {},
                "url": f"{place}/{file}",
                "hash": {"md5": "0" * 32, "sha256": "0" * 64 if is_conda else one.sha256},
                "category": "main",
                "optional": False,
            }
        )
    metadata = {"channels": [{"url": "some-channel", "used_env_vars": []}], "platforms": [platform]}
    return json.dumps({"version": 1, "metadata": metadata, "package": packages}, indent=1)


def environment_yml(pinned: Sequence[Pinned]) -> str:
    """As people write it: the first package is conda's, the others are pip's."""
    first, *others = pinned
    lines = [
        "name: demo",
        "channels:",
        "  - some-channel",
        "dependencies:",
        "  - python=3.11",
        f"  - {first.wheel.name}={first.wheel.version}",
        "  - pip",
        "  - pip:",
        *(f"      - {one.wheel.name}=={one.wheel.version}" for one in others),
    ]
    return "\n".join(lines) + "\n"
