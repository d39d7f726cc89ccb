"""Where a model lies: Hugging Face's own cache layout, with a manifest of ours beside it.

    models/hub/models--<organisation>--<name>/
        blobs/<digest>                  the content of each file, once: SHA-256, or the git id of a small file
        blobs/<digest>.incomplete       what has come of a file so far
        snapshots/<commit>/<file>       links into blobs/: what `from_pretrained(id, revision=commit)` reads
        manifests/<commit>.json         ours, last: a model without it is not there

`HF_HUB_CACHE` that leads to `models/hub` is all that transformers needs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tunewright.contracts.files import sync_directory

FILE_MODE = 0o644
DIRECTORY_MODE = 0o755
FIXED_TIME_SECONDS = 315532800
"""1980-01-01: the time of every file of a model, so that an image's layer does not tell when it was made."""

_PREFIX = "models--"


def hub_of(home: Path) -> Path:
    """The directory of all models below `$TUNEWRIGHT_HOME`: what `HF_HUB_CACHE` must be."""
    return home / "models" / "hub"


@dataclass(frozen=True)
class ModelPlace:
    """Every path of one model at one commit."""

    hub: Path
    model_id: str
    commit: str

    @classmethod
    def of_manifest(cls, path: Path) -> ModelPlace:
        """The place whose manifest is `path`."""
        repository = path.parent.parent
        return cls(repository.parent, repository.name.removeprefix(_PREFIX).replace("--", "/"), path.stem)

    @property
    def repository(self) -> Path:
        """All commits of the model."""
        return self.hub / (_PREFIX + self.model_id.replace("/", "--"))

    @property
    def blobs(self) -> Path:
        """The contents of the files of all commits."""
        return self.repository / "blobs"

    def blob(self, digest: str) -> Path:
        """The content with this digest."""
        return self.blobs / digest

    def incomplete(self, digest: str) -> Path:
        """What has come so far of the content with this digest."""
        return self.blobs / f"{digest}.incomplete"

    @property
    def snapshot(self) -> Path:
        """The model's directory, as it looks at this commit."""
        return self.repository / "snapshots" / self.commit

    @property
    def main(self) -> Path:
        """Which commit is meant where none is named."""
        return self.repository / "refs" / "main"

    @property
    def manifest(self) -> Path:
        """What vouches for the model."""
        return self.repository / "manifests" / f"{self.commit}.json"

    @property
    def lock(self) -> Path:
        """Held by whoever fetches any commit of the model: they share their blobs."""
        return self.hub / ".locks" / self.repository.name / "tunewright.lock"

    def link(self, name: str, digest: str) -> None:
        """Let the file `name` of the snapshot lead to the content with this digest. Replaces what is there, whole."""
        target = self.snapshot / name
        target.parent.mkdir(parents=True, exist_ok=True)
        text = os.path.relpath(self.blob(digest), target.parent)
        if target.is_symlink() and os.readlink(target) == text:
            return
        # Outside of the snapshot: what a killed process leaves must not look like a file of the model.
        temporary = self.repository / f".link.{os.getpid()}.tmp"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(text)
        os.replace(temporary, target)

    def sync_links(self) -> None:
        """Make the snapshot's links survive a power cut."""
        for directory in (self.snapshot, *(path for path in self.snapshot.rglob("*") if _is_directory(path))):
            sync_directory(directory)
        sync_directory(self.snapshot.parent)


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def set_mode_and_time(path: Path) -> None:
    """Give `path` the mode and time that every file, link or directory of a model has."""
    if not path.is_symlink():
        path.chmod(DIRECTORY_MODE if path.is_dir() else FILE_MODE)
    os.utime(path, (FIXED_TIME_SECONDS, FIXED_TIME_SECONDS), follow_symlinks=False)
