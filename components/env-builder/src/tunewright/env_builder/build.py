"""From a request to an environment: found where it was built before, built once where it was not."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tunewright.contracts.environments import EnvironmentRef, EnvironmentRequest
from tunewright.contracts.errors import EnvironmentBuildFailed, PreflightFailed
from tunewright.contracts.files import sha256_of_tree, sync_directory
from tunewright.contracts.preflight import PreflightReport
from tunewright.contracts.timestamps import utc_now
from tunewright.env_builder.checks import find_project_problems
from tunewright.env_builder.git import head_commit
from tunewright.env_builder.inputs import (
    DECIDING_PATHS,
    OUTPUT_NAME,
    TARGET,
    PexInputs,
    inputs_of,
    lock_digest,
    pants_version,
)
from tunewright.env_builder.interpreter import VERSION_TEXT, find_base_interpreter, version_of
from tunewright.env_builder.pants import find_pants, inner_environment, package_command, package_environment, run_logged
from tunewright.env_builder.progress import say, showing
from tunewright.env_builder.record import (
    PEX_NAME,
    BuiltEnvironment,
    EnvironmentPlace,
    file_records,
    read_built,
    write_built,
)

_TAIL_LINES = 20


@dataclass(frozen=True)
class ProvidedEnvironment:
    """The environment asked for, and whether it had to be built."""

    reference: EnvironmentRef
    built: bool


def ensure_environment(request: EnvironmentRequest) -> ProvidedEnvironment:
    """The environment of `request`, built where it is not there yet, by one process at a time.

    Raises PreflightFailed where it cannot be built here, EnvironmentBuildFailed naming the log where building fails.
    """
    root = Path(request.project_root)
    inputs = inputs_of(root, request.code.commit, with_changes=request.code.dirty)
    place = EnvironmentPlace(Path(request.home), inputs.key)
    planned = plan_environment(place, root)
    if found := read_built(place):
        return ProvidedEnvironment(_as_recorded(planned, found), built=False)
    if request.plan_only:
        return ProvidedEnvironment(planned, built=False)
    refuse_unless_buildable(root, place.home)
    place.environments.mkdir(parents=True, exist_ok=True)
    with _held(place):
        if found := read_built(place):
            return ProvidedEnvironment(_as_recorded(planned, found), built=False)
        built = _build(planned, place, root, request, inputs)
    return ProvidedEnvironment(built.plain, built=True)


def plan_environment(place: EnvironmentPlace, root: Path) -> EnvironmentRef:
    """What the environment at `place` will be, before it is there."""
    return EnvironmentRef(
        kind="pex",
        key=place.key,
        reference=str(place.pex),
        command=(find_base_interpreter() or f"python{VERSION_TEXT}", str(place.pex)),
        variables={"PEX_ROOT": str(place.pex_root)},
        lock_digest=lock_digest(root),
    )


def refuse_unless_buildable(root: Path, home: Path) -> None:
    """Raise PreflightFailed with every reason why nothing can be built here."""
    report = PreflightReport(findings=tuple(find_project_problems(root, home)))
    if report.errors:
        lines = "".join(f"\n  {finding}" for finding in report.errors)
        raise PreflightFailed(f"the environment cannot be built here:{lines}", report=report)


def _as_recorded(planned: EnvironmentRef, found: BuiltEnvironment) -> EnvironmentRef:
    """What was built, at the place where it lies now: a home may have moved since."""
    now = {"reference": planned.reference, "command": planned.command, "variables": planned.variables}
    return found.plain.model_copy(update=now)


@contextmanager
def _held(place: EnvironmentPlace) -> Iterator[None]:
    """Hold the environment's lock: the kernel gives it back when its holder ends, however it ends."""
    descriptor = os.open(place.lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process builds this environment; waiting for it (log: {place.log})")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _build(
    planned: EnvironmentRef, place: EnvironmentPlace, root: Path, request: EnvironmentRequest, inputs: PexInputs
) -> BuiltEnvironment:
    """Build into a temporary directory, start it once, and rename it into place whole."""
    _refuse_other_tree(root, request, inputs)
    _remove(place.directory, *place.leftovers())
    place.temporary.mkdir()
    try:
        build_seconds = _package(root, place, request.code.commit)
        start_seconds = _start_once(planned, place)
        _refuse_other_tree(root, request, inputs)
        pex = place.temporary / PEX_NAME
        built = BuiltEnvironment(
            **planned.model_dump(exclude={"sha256", "python", "commit"}),
            sha256=sha256_of_tree(pex),
            python=version_of(planned.command[0]),
            commit=request.code.commit,
            files=file_records(pex),
            built_at=utc_now(),
            build_seconds=round(build_seconds, 1),
            start_seconds=round(start_seconds, 1),
            pants_version=pants_version(root),
        )
        _sync_files(pex)
        write_built(place.temporary, built)
        place.temporary.rename(place.directory)
        sync_directory(place.environments)
    finally:
        _remove(place.temporary)
    say(f"environment {place.key[:12]} built in {build_seconds:.0f} s, first start {start_seconds:.1f} s")
    return built


def _refuse_other_tree(root: Path, request: EnvironmentRequest, inputs: PexInputs) -> None:
    """Pants builds what lies in the tree: it must be what the key was made of, before and after."""
    here = inputs_of(root, head_commit(root), with_changes=True)
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
        "check that commit out, or commit the changes; do not edit while it is built: " + ", ".join(DECIDING_PATHS),
    )


def _package(root: Path, place: EnvironmentPlace, commit: str) -> float:
    """Let Pants make the PEX, and take it. Gives the seconds it took."""
    pants = find_pants(root)
    assert pants is not None, "refuse_unless_buildable has looked for it"
    # Pants writes nowhere but below the project; `dist/` is ignored by git and by Pants.
    distdir = Path("dist") / f".environment-{place.key[:16]}.{os.getpid()}.tmp"
    _remove(*_dead_distdirs(root), root / distdir)
    command = package_command(pants, distdir.as_posix(), TARGET)
    say(f"building the training environment of commit {commit[:12]}; log: {place.log}")
    place.log.write_text(f"$ {' '.join(command)}\n")
    started = time.monotonic()
    try:
        with showing("building the environment", place.log) as tick:
            code = run_logged(command, root, package_environment(os.environ), place.log, tick)
        made = root / distdir / OUTPUT_NAME
        if code != 0 or not made.exists():
            what = f"ended with {code}" if code else f"made no {OUTPUT_NAME}"
            raise _failed(f"`{' '.join(command)}` {what}", place.log)
        shutil.move(made, place.temporary / PEX_NAME)
    finally:
        _remove(root / distdir)
    return time.monotonic() - started


def _start_once(planned: EnvironmentRef, place: EnvironmentPlace) -> float:
    """Start the PEX: it unpacks itself, and is known to start. Gives the seconds it took."""
    command = [planned.command[0], str(place.temporary / PEX_NAME), "--version"]
    environment = {**inner_environment(os.environ), **planned.variables}
    with place.log.open("a") as log:
        log.write(f"$ {' '.join(command)}\n")
    started = time.monotonic()
    with showing("starting it for the first time", place.log) as tick:
        code = run_logged(command, place.temporary, environment, place.log, tick)
    if code != 0:
        raise _failed(
            f"the environment was built but does not start: `{' '.join(command)}` ended with {code}", place.log
        )
    return time.monotonic() - started


def _failed(what: str, log: Path) -> EnvironmentBuildFailed:
    lines = log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
    return EnvironmentBuildFailed(f"{what}\nlog: {log}, its end:\n" + "\n".join(f"    {line}" for line in lines))


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


def _remove(*directories: Path) -> None:
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def _sync_files(pex: Path) -> None:
    """The record vouches for these bytes, also after a power cut."""
    for path in [pex] if pex.is_file() else [path for path in pex.rglob("*") if path.is_file()]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
