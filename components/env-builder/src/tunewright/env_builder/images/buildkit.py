"""Building an image: by the client program, since docker-py cannot speak to BuildKit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tunewright.contracts.errors import EnvironmentBuildFailed, TunewrightError, Unavailable
from tunewright.env_builder.building import failed, log_command
from tunewright.env_builder.pants import inner_environment, run_logged
from tunewright.env_builder.progress import say, showing

_ATTEMPTS = 3
_FIRST_PAUSE_SECONDS = 1.0
_LAST_VERSION_WITH_BUILDKIT = 22

_NO_DAEMON = re.compile(r"Cannot connect to the Docker daemon|error during connect", re.IGNORECASE)
_DISK_FULL = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_BASE_MISSING = re.compile(r"^ > \[internal\] load metadata for (\S+):$", re.MULTILINE)
"""How the client sums up the step that failed."""

_MAY_PASS = re.compile(
    r"connection reset|unexpected EOF|TLS handshake timeout|i/o timeout|temporarily unavailable|502 Bad Gateway|"
    r"503 Service Unavailable|server closed idle|failed to do request",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class BuildRequest:
    """One call of `docker build`."""

    context: Path
    dockerfile: Path
    arguments: Mapping[str, str]
    labels: Mapping[str, str]
    cache_from: Sequence[str] = ()
    network: str = "none"
    """A part of BuildKit's cache key: a build that is to find another's layers names the same one."""

    tmpdir: Path | None = None
    secrets: Sequence[str] = field(default=())
    """`id=NAME,src=FILE` of BuildKit: mounted while a step runs, in no layer and no history."""


def find_client() -> str | None:
    """A client program with BuildKit: a new one that has buildx, or an old one, which has it inside. None without."""
    for program in _programs("docker"):
        version = _output([program, "version", "--format", "{{.Client.Version}}"])
        major = int(version.partition(".")[0]) if version.partition(".")[0].isdigit() else 0
        if 18 <= major <= _LAST_VERSION_WITH_BUILDKIT or (major and _output([program, "buildx", "version"])):
            return program
    return None


def _programs(name: str) -> Iterator[str]:
    for directory in os.environ.get("PATH", os.defpath).split(os.pathsep):
        if found := shutil.which(name, path=directory):
            yield found


def _output(command: Sequence[str]) -> str:
    """What a command says, or nothing where it fails. A client tells its version also where no daemon answers."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def build_image(client: str, request: BuildRequest, log: Path) -> str:
    """Build, everything it says streamed into `log`. Gives the image's id; nothing is tagged.

    What may pass, a lost connection, is tried again. Raises EnvironmentBuildFailed or Unavailable in words.
    """
    iid_file = log.with_suffix(".iid")
    command = build_command(client, request, iid_file)
    environment = {**inner_environment(os.environ), "DOCKER_BUILDKIT": "1", "BUILDKIT_PROGRESS": "plain"}
    if request.tmpdir:
        environment["TMPDIR"] = str(request.tmpdir)
    try:
        for attempt in range(1, _ATTEMPTS + 1):
            start = log.stat().st_size
            log_command(log, command)
            with showing("building the image", log) as tick:
                code = run_logged(command, request.context, environment, log, tick)
            if code == 0:
                return iid_file.read_text().strip()
            with log.open("rb") as file:
                file.seek(start)
                said = file.read().decode(errors="replace")
            if attempt == _ATTEMPTS or not _MAY_PASS.search(said):
                raise build_error(said, log, code)
            pause_seconds = _FIRST_PAUSE_SECONDS * 2 ** (attempt - 1)
            say(f"the build lost a connection; trying again in {pause_seconds:.0f} s")
            time.sleep(pause_seconds)
        raise AssertionError  # never reached: the last attempt raises
    finally:
        iid_file.unlink(missing_ok=True)


def build_command(client: str, request: BuildRequest, iid_file: Path) -> list[str]:
    """The argument list."""
    command = [client, "build", f"--network={request.network}", f"--iidfile={iid_file}", f"--file={request.dockerfile}"]
    # The layers' origins go into the image itself, so that a registry is a cache for whoever pulls from it.
    arguments = {**request.arguments, "BUILDKIT_INLINE_CACHE": "1"}
    command += [f"--build-arg={name}={value}" for name, value in sorted(arguments.items())]
    command += [f"--label={name}={value}" for name, value in sorted(request.labels.items())]
    command += [f"--cache-from={reference}" for reference in request.cache_from]
    command += [f"--secret={secret}" for secret in request.secrets]
    return [*command, str(request.context)]


def build_error(said: str, log: Path, code: int) -> TunewrightError:
    """What a failed build means, in our words where we know them."""
    if _NO_DAEMON.search(said):
        return Unavailable("the Docker daemon went away during the build", f"log: {log}")
    if _DISK_FULL.search(said):
        return failed("the disk is full: the image was not built", log, "make room: `env-builder clean --dry-run`")
    if match := _BASE_MISSING.search(said):
        what = f"the base image {match[1]} is not here, and it could not be pulled"
        return failed(what, log, "images/base is made here: leave TUNEWRIGHT_BASE_IMAGE unset, or pull the image first")
    return failed(f"`docker build` ended with {code}", log)


def no_client() -> EnvironmentBuildFailed:
    """No client program can build."""
    hint = "Debian: apt-get install docker.io; elsewhere: install buildx beside your docker"
    return EnvironmentBuildFailed("no `docker` on PATH has BuildKit", hint)
