"""What speaks against building images here: findings, with stable codes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tunewright.contracts.preflight import Finding, Severity
from tunewright.env_builder.checks import find_project_problems
from tunewright.env_builder.images.daemon import Daemon
from tunewright.env_builder.images.options import ImageOptions

_WANTED_GIB = 8
"""Torch's packages, their unpacked form in two stages and in the image, for the CPU: about 6 GiB."""


def find_image_problems(root: Path, home: Path, daemon: Daemon, options: ImageOptions) -> list[Finding]:
    """What is missing at `root` and on this machine to build an image."""
    return [
        *find_project_problems(root, home, program=None),
        *_disk_findings(daemon),
        *_base_findings(options),
        *_tmpdir_findings(options),
    ]


def _disk_findings(daemon: Daemon) -> list[Finding]:
    """Room where the daemon keeps its images. One on another machine tells nothing."""
    directory = Path(daemon.root_directory())
    if not directory.is_dir():
        return []
    free_gib = shutil.disk_usage(directory).free / 2**30
    if free_gib >= _WANTED_GIB:
        return []
    message = (
        f"{directory}, where the Docker daemon keeps images, has {free_gib:.1f} GiB free; up to {_WANTED_GIB} needed"
    )
    hint = "`env-builder clean --dry-run` shows what can go"
    return [Finding(code="image-disk-space", severity=Severity.WARNING, message=message, hint=hint)]


def _base_findings(options: ImageOptions) -> list[Finding]:
    if options.base_image or shutil.which("mmdebstrap", path="/usr/sbin:/usr/bin:/sbin:/bin"):
        return []
    message = "`mmdebstrap`, which makes images/base, is not installed"
    hint = "apt-get install mmdebstrap, or give a base: TUNEWRIGHT_BASE_IMAGE=name@sha256:..."
    # The daemon, or Pants's cache, may have the base already.
    return [Finding(code="image-base-program-missing", severity=Severity.WARNING, message=message, hint=hint)]


def _tmpdir_findings(options: ImageOptions) -> list[Finding]:
    directory = options.tmpdir
    if directory is None or (directory.is_dir() and os.access(directory, os.W_OK)):
        return []
    message = f"must be a directory that can be written to, got {directory}"
    return [Finding(code="tmpdir-not-writable", path="--tmpdir", message=message)]
