"""What building anything has in common: one builder at a time, Pants in its own directory, failures with logs."""

from __future__ import annotations

import os
import py_compile
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tunewright.contracts.environments import EnvironmentRequest
from tunewright.contracts.errors import EnvironmentBuildFailed
from tunewright.env_builder.exclusive import held
from tunewright.env_builder.git import head_commit
from tunewright.env_builder.inputs import EnvironmentInputs, inputs_of
from tunewright.env_builder.pants import find_pants, package_command, package_environment, run_logged
from tunewright.env_builder.progress import showing
from tunewright.env_builder.record import EnvironmentPlace

_TAIL_LINES = 20


def alone(place: EnvironmentPlace) -> AbstractContextManager[None]:
    """Hold an environment's lock while it is built."""
    return held(place.lock, f"another process builds this environment; waiting for it (log: {place.log})")


def failed(what: str, log: Path, hint: str = "") -> EnvironmentBuildFailed:
    """The error of a build that failed, with the end of its log."""
    lines = log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
    shown = "\n".join(f"    {line}" for line in lines)
    return EnvironmentBuildFailed(f"{what}\nlog: {log}, its end:\n{shown}", hint)


def refuse_other_tree(root: Path, request: EnvironmentRequest, inputs: EnvironmentInputs) -> None:
    """Pants builds what lies in the tree: it must be what the key was made of, before and after."""
    here = inputs_of(root, head_commit(root), with_changes=True, like=inputs)
    if here == inputs:
        return
    differing = sorted(
        name
        for name in {*here.committed, *inputs.committed, *here.changed, *inputs.changed}
        if here.committed.get(name) != inputs.committed.get(name) or here.changed.get(name) != inputs.changed.get(name)
    )
    wanted = f"commit {request.code.commit[:12]}" + (" with the changes it had" if request.code.dirty else "")
    raise EnvironmentBuildFailed(
        f"{root} is not (or no longer) {wanted}; what differs: {', '.join(differing[:5])}"
        + (f" and {len(differing) - 5} more" if len(differing) > 5 else ""),
        "check that commit out, or commit the changes; do not edit while it is built: " + ", ".join(inputs.paths),
    )


@contextmanager
def packaged(root: Path, key: str, log: Path, targets: Sequence[str], tmpdir: Path | None = None) -> Iterator[Path]:
    """Let Pants make `targets`. Gives the directory they are in, which is gone afterwards.

    Raises EnvironmentBuildFailed with the end of the log where Pants fails.
    """
    pants = find_pants(root)
    assert pants is not None, "preflight has looked for it"
    # Pants writes nowhere but below the project; `dist/` is ignored by git and by Pants.
    distdir = Path("dist") / f".environment-{key[:16]}.{os.getpid()}.tmp"
    remove(*_dead_distdirs(root), root / distdir)
    command = package_command(pants, distdir.as_posix(), *targets)
    environment = package_environment(os.environ) | ({"TMPDIR": str(tmpdir)} if tmpdir else {})
    try:
        (root / distdir).mkdir(parents=True, exist_ok=True)
        if targets:  # an image may hold files only
            _run_pants(command, root, environment, log)
        yield root / distdir
    finally:
        remove(root / distdir)


def _run_pants(command: list[str], root: Path, environment: Mapping[str, str], log: Path) -> None:
    log_command(log, command)
    with showing("packaging", log) as tick:
        code = run_logged(command, root, environment, log, tick)
    if code != 0:
        raise failed(f"`{' '.join(command)}` ended with {code}", log)


def compile_start_file(pex: Path) -> None:
    """Compile the PEX's own start-up file, by its hash: Python's first start would put the time of the build in it.

    Equal PEXes then are equal also after they have started.
    """
    start_file = pex / "__main__.py"
    if start_file.is_file():
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(start_file), dfile=start_file.name, doraise=True, invalidation_mode=mode)


def log_command(log: Path, command: Sequence[str]) -> None:
    """Write down what is run next."""
    with log.open("a") as file:
        file.write(f"$ {' '.join(command)}\n")


def _dead_distdirs(root: Path) -> list[Path]:
    """What builds left in `dist/` when they were killed. Another key's, or another home's, may be alive."""
    found = (root / "dist").glob(".environment-*.tmp")
    return [path for path in found if not _is_alive(path.name.split(".")[-2])]


def _is_alive(process_id: str) -> bool:
    try:
        os.kill(int(process_id), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def remove(*directories: Path) -> None:
    """Take directories away, where they are there."""
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def timed() -> Iterator[list[float]]:
    """Gives a list that has the seconds taken once it is over."""
    seconds: list[float] = []
    started = time.monotonic()
    try:
        yield seconds
    finally:
        seconds.append(time.monotonic() - started)


def sync_files(pex: Path) -> None:
    """The record vouches for these bytes, also after a power cut."""
    for path in [pex] if pex.is_file() else [path for path in pex.rglob("*") if path.is_file()]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
