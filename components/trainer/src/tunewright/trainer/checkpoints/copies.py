"""Copies of checkpoints at a URL (`s3://`, `gs://`): made while training goes on, fetched by a run that lost its own.

A copy lies in `URL/<run>/step-000020/`. Its record is written last and removed first, so a torn copy is none.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tunewright.contracts.checkpoints import CHECKPOINT_FILE, CheckpointManifest, read_checkpoint_manifest
from tunewright.contracts.dataset_copies import PARALLEL_TRANSFERS, open_objects, reaching
from tunewright.contracts.errors import CheckpointCorrupted, NotFound, TunewrightError
from tunewright.contracts.files import sync_directory, write_bytes_atomically
from tunewright.trainer.checkpoints.finding import checkpoint_name

RETRY_SECONDS = (1.0, 5.0)
"""Pauses between attempts to copy a checkpoint: there is one attempt more."""

LAST_COPY_SECONDS = 900.0
"""How long the end of a training waits for its last copy."""


class CopyPlace:
    """Where the copies of one run lie."""

    def __init__(self, url: str, run: str) -> None:
        self.url = f"{url.rstrip('/')}/{run}"
        self._objects, self._path = open_objects(self.url)

    def names(self) -> dict[str, list[str]]:
        """The files there, by the checkpoint's name. Raises Unavailable, NotFound where there is no such bucket."""
        found: dict[str, list[str]] = {}
        try:
            with reaching(self.url):
                paths: list[str] = self._objects.find(self._path)
        except FileNotFoundError as error:
            raise NotFound(f"{self.url}: {error}", "checkpoint.copy_to must be in a bucket that is there") from None
        for path in paths:
            name, _, file = path.removeprefix(f"{self._path}/").partition("/")
            if name.startswith("step-") and file:
                found.setdefault(name, []).append(file)
        return found

    def whole_names(self) -> list[str]:
        """Names of the checkpoints that have their record, oldest first. Raises Unavailable."""
        whole = [name for name, files in self.names().items() if CHECKPOINT_FILE in files]
        return sorted(whole, key=lambda name: (len(name), name))

    def read_record(self, name: str) -> bytes | None:
        """The bytes of a checkpoint's record; None where it has none."""
        try:
            with reaching(self.url):
                data: bytes = self._objects.cat_file(f"{self._path}/{name}/{CHECKPOINT_FILE}")
                return data
        except FileNotFoundError:
            return None

    def put(self, checkpoint: Path) -> None:
        """Copy a whole checkpoint there. Raises Unavailable; then nothing of that name counts as whole."""
        record = (checkpoint / CHECKPOINT_FILE).read_bytes()
        there = self.read_record(checkpoint.name)
        if there == record:
            return
        with reaching(self.url):
            if there is not None:  # of an attempt that went on from an earlier one
                self._objects.rm_file(f"{self._path}/{checkpoint.name}/{CHECKPOINT_FILE}")
            files = [one.file for one in CheckpointManifest.model_validate_json(record).files]
            _for_all(files, lambda file: self._put_file(checkpoint, file))
            self._objects.pipe_file(f"{self._path}/{checkpoint.name}/{CHECKPOINT_FILE}", record)

    def _put_file(self, checkpoint: Path, file: str) -> None:
        self._objects.put_file(str(checkpoint / file), f"{self._path}/{checkpoint.name}/{file}")

    def remove_old(self, keep_last: int, keep: Collection[str]) -> None:
        """Remove all but the newest `keep_last` whole copies and those named in `keep`. Raises Unavailable."""
        files = self.names()
        for name in self.whole_names()[:-keep_last]:
            if name in keep:
                continue
            with reaching(self.url):
                for file in sorted(files[name], key=lambda file: file != CHECKPOINT_FILE):
                    self._objects.rm_file(f"{self._path}/{name}/{file}")

    def fetch(self, name: str, directory: Path) -> CheckpointManifest:
        """Copy a checkpoint into `directory`, whole and verified. Raises CheckpointCorrupted, Unavailable."""
        temporary, target = directory / f".{name}.tmp", directory / name
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            manifest = self._fetch_files(name, temporary)
            shutil.rmtree(target, ignore_errors=True)  # a torn one
            temporary.rename(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_directory(directory)
        return manifest

    def _fetch_files(self, name: str, temporary: Path) -> CheckpointManifest:
        record = self.read_record(name)
        if record is None:
            raise CheckpointCorrupted(f"{self.url}/{name}: its {CHECKPOINT_FILE} has gone")
        write_bytes_atomically(temporary / CHECKPOINT_FILE, record)
        manifest = read_checkpoint_manifest(temporary)
        for one in manifest.files:
            if Path(one.file).name != one.file:
                raise CheckpointCorrupted(f"{self.url}/{name}: its record names a file outside of it: {one.file}")

        def get(file: str) -> None:
            try:
                with reaching(f"{self.url}/{name}/{file}"):
                    self._objects.get_file(f"{self._path}/{name}/{file}", str(temporary / file))
            except FileNotFoundError:
                return  # `problem` says so

        _for_all([one.file for one in manifest.files], get)
        problems = [problem for one in manifest.files if (problem := one.problem(temporary))]
        if problems:
            raise CheckpointCorrupted("\n".join(problems).replace(str(temporary), f"{self.url}/{name}"))
        return manifest


def _for_all(files: Iterable[str], act: Callable[[str], None]) -> None:
    with ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
        for _ in pool.map(act, files):
            pass


def best_step(manifest: CheckpointManifest) -> int | None:
    """The step of the best evaluation so far, as the checkpoint has it: with `keep_best` that checkpoint is needed."""
    step = manifest.position.get("progress", {}).get("best_evaluation_step")
    return step if isinstance(step, int) else None


def fetch_checkpoints(url: str, run: str, directory: Path) -> bool:
    """Fetch the newest copy that is as it was written, and the best one it speaks of. Gives whether there was any.

    Raises Unavailable where the URL cannot be asked, CheckpointCorrupted where there are copies and none is good.
    """
    place = CopyPlace(url, run)
    names, problems = place.whole_names(), list[str]()
    for name in reversed(names):
        _say(f"checkpoint {name}: copying it from {place.url}")
        try:
            manifest = place.fetch(name, directory)
        except CheckpointCorrupted as error:
            problems.append(error.message)
            _say(f"warning: {error.message}")
            continue
        best = best_step(manifest)
        if best is not None and checkpoint_name(best) in set(names) - {name}:
            place.fetch(checkpoint_name(best), directory)
        return True
    if problems:
        raise CheckpointCorrupted("\n".join(problems), f"none of the copies at {place.url} is as it was written")
    return False


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


class CheckpointCopier:
    """Copies checkpoints to a URL in a thread of its own. A copy that fails is told and tried again with the next one.

    Training never waits for a copy but at its end, and never ends because of one. Where checkpoints come faster than
    they can be copied, those in between are left out.
    """

    def __init__(self, url: str, run: str, keep_last: int) -> None:
        self._place, self._keep_last = CopyPlace(url, run), keep_last
        self._next: tuple[Path, frozenset[int]] | None = None
        self._current: Path | None = None
        self._newest: str | None = None
        self._problems: dict[str, str] = {}
        self._is_closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="copying checkpoints", daemon=True)
        self._thread.start()

    def add(self, checkpoint: Path, keep: Collection[int] = ()) -> None:
        """Copy a whole checkpoint, soon. `keep` are steps whose copies stay, however old."""
        with self._changed:
            self._next = checkpoint, frozenset(keep)
            self._changed.notify_all()

    @property
    def steps_in_use(self) -> frozenset[int]:
        """Steps whose checkpoints must not be removed yet."""
        with self._changed:
            paths = [self._current, self._next[0] if self._next else None]
        return frozenset(int(path.name.removeprefix("step-")) for path in paths if path is not None)

    def close(self) -> None:
        """Wait for the last copy, but not for ever. Nothing can be added afterwards."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(LAST_COPY_SECONDS)
        current = self._current
        if self._thread.is_alive() and current is not None:
            self._note_problem(current.name, f"not over after {LAST_COPY_SECONDS:.0f} s")

    def describe(self) -> dict[str, Any]:
        """For the record: the URL, the newest checkpoint that is there, and what is not there, and why."""
        with self._changed:
            return {"url": self._place.url, "newest": self._newest, "failed": dict(self._problems)}

    def _run(self) -> None:
        while True:
            with self._changed:
                self._current = None
                self._changed.wait_for(lambda: self._next is not None or self._is_closing)
                if self._next is None:
                    return
                (checkpoint, keep), self._next = self._next, None
                self._current = checkpoint
            self._copy(checkpoint, frozenset(checkpoint_name(step) for step in keep))

    def _copy(self, checkpoint: Path, keep: Collection[str]) -> None:
        problem = ""
        for pause in (*RETRY_SECONDS, None):
            try:
                self._place.put(checkpoint)
                self._newest = checkpoint.name
                self._place.remove_old(self._keep_last, keep)
            except (TunewrightError, OSError) as error:
                problem = str(error).split("\n")[0]
            else:
                return
            if pause is not None:
                time.sleep(pause)
        self._note_problem(checkpoint.name, problem)

    def _note_problem(self, name: str, problem: str) -> None:
        with self._changed:
            self._problems[name] = problem
        _say(f"warning: {name} could not be copied to {self._place.url}: {problem}; training goes on")
