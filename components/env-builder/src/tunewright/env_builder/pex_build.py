"""The trainer's PEX: found where it was built before, built once where it was not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tunewright.contracts.environments import EnvironmentRef, EnvironmentRequest
from tunewright.contracts.files import sha256_of_tree, sync_directory
from tunewright.contracts.timestamps import utc_now
from tunewright.env_builder.building import (
    alone,
    compile_start_file,
    failed,
    log_command,
    packaged,
    refuse_other_tree,
    remove,
    sync_files,
    timed,
)
from tunewright.env_builder.checks import find_project_problems, refuse
from tunewright.env_builder.inputs import OUTPUT_NAME, TARGET, EnvironmentInputs, inputs_of, lock_digest, pants_version
from tunewright.env_builder.interpreter import VERSION_TEXT, find_base_interpreter, version_of
from tunewright.env_builder.pants import inner_environment, run_logged
from tunewright.env_builder.preflight import lock_findings
from tunewright.env_builder.progress import say, showing
from tunewright.env_builder.record import (
    PEX_NAME,
    BuiltEnvironment,
    EnvironmentPlace,
    ProvidedEnvironment,
    file_records,
    read_built,
    write_built,
)


def ensure_pex(request: EnvironmentRequest) -> ProvidedEnvironment:
    """The PEX of `request`, built where it is not there yet, by one process at a time.

    Raises PreflightFailed where it cannot be built here, EnvironmentBuildFailed naming the log where building fails.
    """
    root = Path(request.project_root)
    inputs = inputs_of(root, request.code.commit, with_changes=request.code.dirty)
    place = EnvironmentPlace(Path(request.home), inputs.key)
    planned = plan_pex(place, root)
    if found := read_built(place):
        return ProvidedEnvironment(_as_recorded(planned, found), built=False)
    if request.plan_only:
        return ProvidedEnvironment(planned, built=False)
    refuse("the environment cannot be built here", [*find_project_problems(root, place.home), *lock_findings(root)])
    with alone(place):
        if found := read_built(place):
            return ProvidedEnvironment(_as_recorded(planned, found), built=False)
        built = _build(planned, place, root, request, inputs)
    return ProvidedEnvironment(built.plain, built=True)


def plan_pex(place: EnvironmentPlace, root: Path) -> EnvironmentRef:
    """What the environment at `place` will be, before it is there."""
    return EnvironmentRef(
        kind="pex",
        key=place.key,
        reference=str(place.pex),
        command=(find_base_interpreter() or f"python{VERSION_TEXT}", str(place.pex)),
        variables={"PEX_ROOT": str(place.pex_root)},
        lock_digest=lock_digest(root),
    )


def _as_recorded(planned: EnvironmentRef, found: BuiltEnvironment) -> EnvironmentRef:
    """What was built, at the place where it lies now: a home may have moved since."""
    now = {"reference": planned.reference, "command": planned.command, "variables": planned.variables}
    return found.plain.model_copy(update=now)


def _build(
    planned: EnvironmentRef, place: EnvironmentPlace, root: Path, request: EnvironmentRequest, inputs: EnvironmentInputs
) -> BuiltEnvironment:
    """Build into a temporary directory, start it once, and rename it into place whole."""
    refuse_other_tree(root, request, inputs)
    remove(place.directory, *place.leftovers())
    place.temporary.mkdir()
    try:
        with timed() as build_seconds:
            _package(root, place, request.code.commit)
        with timed() as start_seconds:
            _start_once(planned, place)
        refuse_other_tree(root, request, inputs)
        pex = place.temporary / PEX_NAME
        built = BuiltEnvironment(
            **planned.model_dump(exclude={"sha256", "python", "commit"}),
            sha256=sha256_of_tree(pex),
            python=version_of(planned.command[0]),
            commit=request.code.commit,
            files=file_records(pex),
            built_at=utc_now(),
            build_seconds=round(build_seconds[0], 1),
            start_seconds=round(start_seconds[0], 1),
            pants_version=pants_version(root),
        )
        sync_files(pex)
        write_built(place.temporary, built)
        place.temporary.rename(place.directory)
        sync_directory(place.environments)
    finally:
        remove(place.temporary)
    say(f"environment {place.key[:12]} built in {build_seconds[0]:.0f} s, first start {start_seconds[0]:.1f} s")
    return built


def _package(root: Path, place: EnvironmentPlace, commit: str) -> None:
    """Let Pants make the PEX, and take it."""
    say(f"building the training environment of commit {commit[:12]}; log: {place.log}")
    place.log.write_text("")
    with packaged(root, place.key, place.log, [TARGET]) as distdir:
        made = distdir / OUTPUT_NAME
        if not made.exists():
            raise failed(f"Pants made no {OUTPUT_NAME}", place.log)
        shutil.move(made, place.temporary / PEX_NAME)


def _start_once(planned: EnvironmentRef, place: EnvironmentPlace) -> None:
    """Start the PEX: it unpacks itself, and is known to start."""
    compile_start_file(place.temporary / PEX_NAME)
    command = [planned.command[0], str(place.temporary / PEX_NAME), "--version"]
    environment = {**inner_environment(os.environ), **planned.variables}
    log_command(place.log, command)
    with showing("starting it for the first time", place.log) as tick:
        code = run_logged(command, place.temporary, environment, place.log, tick)
    if code != 0:
        raise failed(
            f"the environment was built but does not start: `{' '.join(command)}` ended with {code}", place.log
        )
