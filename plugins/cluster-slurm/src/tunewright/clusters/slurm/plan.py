"""From a job, or many, to what Slurm gets: one sbatch script, and what the submission adds to it. Pure.

The script is a few lines for a shell that looks at nothing else: two quoted here-documents hold a Python program and,
as JSON of ASCII, what it runs. What only the submission knows stands in `slurm.json` in angle brackets.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

from tunewright.clusters.slurm.options import SlurmOptions
from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.contracts.files import ascii_json, json_text
from tunewright.contracts.job_problems import TOLD_VARIABLES, argument_problems, variable_problems
from tunewright.contracts.jobs import JobSpec, PlannedFile, SubmissionPlan

SCRIPT_FILE = "job.sbatch"
PLAN_FILE = "slurm.json"
NAME, AFTER = "<name>", "<after>"

_PROGRAMS = resources.files("tunewright.clusters.slurm.programs")
# Read when this module is imported: planning itself opens no file.
_BATCH_PROGRAM, _NODE_PROGRAM = (
    _PROGRAMS.joinpath(name).read_text(encoding="utf-8") for name in ("batch_program.py", "node_program.py")
)
_SHELL = r"""
# Tunewright's run {run}. Only its first node runs this; srun brings the command to all of them.
exec {python} -I -S -X utf8 /dev/fd/3 "$1" 3<<'END_OF_PROGRAM' 4<<'END_OF_JOBS'
"""
_READ_BY_SLURM = frozenset("\\%\n")
"""What Slurm does not take as it is in names of files."""

_OURS = (
    "account", "array", "comment", "constraint", "cpus-per-task", "dependency", "error", "exclude", "exclusive",
    "export", "gpus-per-node", "gres", "job-name", "kill-on-invalid-dep", "mem", "no-requeue", "nodelist", "nodes",
    "ntasks", "ntasks-per-node", "open-mode", "output", "parsable", "partition", "qos", "requeue", "reservation",
    "signal", "time", "wait", "wrap",
)  # fmt: skip
"""Options of sbatch that the plan itself gives."""


def plan_jobs(jobs: Sequence[JobSpec], options: SlurmOptions, array: str | None = None) -> SubmissionPlan:
    """The plan of one job, or of `jobs` as an array, `array` being what `--array` gets.

    Secrets stand in it by name. Raises InvalidExperiment for what Slurm cannot do.
    """
    problems = [*_option_problems(options), *(problem for job in jobs for problem in _problems(job))]
    if problems:
        raise InvalidExperiment.from_problems("cluster `slurm`", list(dict.fromkeys(problems)))
    files = (
        PlannedFile(name=SCRIPT_FILE, text=_script(jobs, options, array)),
        PlannedFile(name=PLAN_FILE, text=_for_submission(jobs, options, array)),
    )
    return SubmissionPlan(cluster="slurm", run=jobs[0].run, files=files)


def array_of(number: int, at_most: int | None) -> str:
    """What `--array` gets for so many jobs, at most `at_most` of them at a time."""
    return f"0-{number - 1}" + (f"%{at_most}" if at_most is not None else "")


def _script(jobs: Sequence[JobSpec], options: SlurmOptions, array: str | None) -> str:
    job = jobs[0]
    parts = (
        _first_lines(job.resources.nodes, _is_requeued(job, options), options, array),
        _SHELL.format(run=ascii(job.run)[1:-1], python=_for_shell(options.python)),
        _BATCH_PROGRAM,
        "END_OF_PROGRAM\n",
        # No shell, locale or editor can read ASCII in two ways; and no line of JSON is the end of a here-document.
        *_for_nodes(jobs, options),
        "\nEND_OF_JOBS\n",
    )
    return "".join(parts)


@functools.lru_cache(maxsize=64)
def _first_lines(nodes: int, is_requeued: bool, options: SlurmOptions, array: str | None) -> str:
    """What sbatch reads of the script, alike in all points of a sweep."""
    lines = (f"#SBATCH {_quoted(text)}" for text in _sbatch_options(nodes, is_requeued, options, array))
    return "\n".join(("#!/bin/sh", *lines))


def _sbatch_options(nodes: int, is_requeued: bool, options: SlurmOptions, array: str | None) -> Iterator[str]:
    """Each option of sbatch, as one word."""
    yield f"--nodes={nodes}"
    yield f"--ntasks={nodes}"
    yield "--ntasks-per-node=1"
    # The submission gives sbatch an environment of six variables. By NONE each job would start a login shell.
    yield "--export=ALL"
    yield "--open-mode=append"
    yield "--requeue" if is_requeued else "--no-requeue"
    # In the submission's directory, where sbatch is called.
    yield "--output=batch.log" if array is None else "--output=batch-%a.log"
    if array is not None:
        yield f"--array={array}"
    for name, value in _simple_options(options).items():
        if value is not None:
            yield f"--{name}={value}"
    if options.exclusive:
        yield "--exclusive"
    if options.memory_gib is not None:
        yield f"--mem={math.ceil(options.memory_gib * 1024)}M"
    if options.signal_before_end_seconds is not None:
        yield f"--signal=USR1@{options.signal_before_end_seconds}"
    yield from options.sbatch


def _simple_options(options: SlurmOptions) -> Mapping[str, str | int | None]:
    """Options whose values go to sbatch as they are."""
    return {
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "gpus-per-node": options.gpus_per_node,
        "gres": options.gres,
        "cpus-per-task": options.cpus_per_task,
        "time": options.time_limit_minutes,
        "nodelist": options.nodelist,
        "exclude": options.exclude,
        "reservation": options.reservation,
    }


def _is_requeued(job: JobSpec, options: SlurmOptions) -> bool:
    return job.max_retries > 0 if options.requeue is None else options.requeue


def _for_nodes(jobs: Sequence[JobSpec], options: SlurmOptions) -> tuple[str, ...]:
    """What the batch program is told, as JSON: its parts."""
    job = jobs[0]
    common = dict(set(job.variables.items()).intersection(*(one.variables.items() for one in jobs[1:])))
    srun = (*_pyxis_options(jobs, options), *_step_options(options), *options.srun)
    variables, secrets = tuple(sorted(common.items())), tuple(sorted(job.secrets))
    before, after = _around_jobs(job.resources.nodes, job.max_retries, options, srun, secrets, variables)
    return before, ascii_json([_for_node(one, options, common) for one in jobs], "  "), after


@functools.lru_cache(maxsize=64)
def _around_jobs(
    nodes: int,
    max_retries: int,
    options: SlurmOptions,
    srun: tuple[str, ...],
    secrets: tuple[str, ...],
    variables: tuple[tuple[str, str], ...],
) -> tuple[str, str]:
    """What stands before and after the jobs, alike in all points of a sweep."""
    document = {
        "num_nodes": nodes,
        "max_retries": max_retries,
        "is_requeued_always": options.requeue is True,
        "python": options.python,
        "container": options.container,
        "srun": srun,
        "secrets": secrets,
        "variables": dict(variables),
        "jobs": None,
        "node_program": _NODE_PROGRAM,
    }
    # The last one: what follows is one text, whose quotes JSON escapes.
    before, _, after = ascii_json(document).rpartition('"jobs": null')
    return f'{before}"jobs": ', after


def _for_node(job: JobSpec, options: SlurmOptions, common: Mapping[str, str]) -> dict[str, Any]:
    own = {name: value for name, value in sorted(job.variables.items()) if name not in common}
    return {"run_dir": job.run_dir, "command": [*_apptainer(job, options), *job.command], "variables": own}


def _step_options(options: SlurmOptions) -> Iterator[str]:
    # srun does not take this one over from sbatch since 22.05.
    if options.cpus_per_task is not None:
        yield f"--cpus-per-task={options.cpus_per_task}"


def _pyxis_options(jobs: Sequence[JobSpec], options: SlurmOptions) -> Iterator[str]:
    if options.container == "pyxis":
        mounts = dict.fromkeys(mount for job in jobs for mount in _mounts(job, options))
        yield f"--container-image={options.container_image}"
        yield f"--container-mounts={','.join(mounts)}"
        yield "--no-container-mount-home"


def _apptainer(job: JobSpec, options: SlurmOptions) -> list[str]:
    if options.container != "apptainer":
        return []
    binds = [f"--bind={mount}" for mount in _mounts(job, options)]
    devices = ["--nv"] if options.gpus_per_node or options.gres else []
    return ["apptainer", "exec", "--cleanenv", f"--pwd={job.run_dir}", *devices, *binds, str(options.container_image)]


def _mounts(job: JobSpec, options: SlurmOptions) -> list[str]:
    """The run's directory and all it reads, at their own paths, and the user's own."""
    paths = [job.run_dir]
    paths += [one.path for one in (job.dataset, job.evaluation_dataset) if one]
    paths += [job.model.name_or_path] if job.model else []
    paths += [job.environment.reference] if job.environment else []
    absolute = dict.fromkeys(path for path in paths if path.startswith("/"))
    return [*(f"{path}:{path}" for path in absolute), *options.container_mounts]


def _for_submission(jobs: Sequence[JobSpec], options: SlurmOptions, array: str | None) -> str:
    """What the submission reads, as JSON; the cluster does not get it."""
    job = jobs[0]
    before, after = _around_runs(job.resources.nodes, options, array is not None, tuple(sorted(job.secrets.items())))
    directories = ascii_json([one.run_dir for one in jobs], "  ")
    return f'{before}"run": {ascii_json(job.run)},\n  "run_dirs": {directories}{after}'


@functools.lru_cache(maxsize=64)
def _around_runs(
    nodes: int, options: SlurmOptions, is_array: bool, secrets: tuple[tuple[str, str], ...]
) -> tuple[str, str]:
    """What stands before and after the runs, alike in all points of a sweep."""
    document = {
        "runs": None,
        "num_nodes": nodes,
        "is_array": is_array,
        "secrets": dict(secrets),
        "sbatch": ["--parsable", f"--job-name={NAME}", AFTER],
        "python": options.python,
        "ssh": ["ssh", "-o", "BatchMode=yes", *options.ssh_options, options.ssh_host] if options.ssh_host else [],
    }
    before, _, after = json_text(document).partition('"runs": null')
    return before, after


def _quoted(option: str) -> str:
    """An option as sbatch reads it from a script."""
    return option if re.fullmatch(r"[\w.,:=@%+/\[\]-]+", option, re.ASCII) else '"' + _escaped(option) + '"'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _for_shell(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


@functools.lru_cache(maxsize=64)
def _option_problems(options: SlurmOptions) -> tuple[Problem, ...]:
    return tuple(_find_option_problems(options))


def _find_option_problems(options: SlurmOptions) -> Iterator[Problem]:
    path = "cluster.options"
    for number, text in enumerate(options.sbatch):
        name = text.removeprefix("--").partition("=")[0]
        if not text.startswith("--"):
            yield Problem(f"{path}.sbatch[{number}]", f"must be one whole option with its long name, got {text!r}")
        elif name in _OURS:
            yield Problem(f"{path}.sbatch[{number}]", f"Tunewright itself says `--{name}`, got {text!r}")
    for number, text in enumerate(options.srun):
        if not text.startswith("--"):
            yield Problem(f"{path}.srun[{number}]", f"must be one whole option with its long name, got {text!r}")
    if options.signal_before_end_seconds and options.time_limit_minutes is None:
        message = "is counted from the end of the time limit, and there is none"
        yield Problem(f"{path}.signal_before_end_seconds", message, "set cluster.options.time_limit_minutes")
    if options.ssh_options and not options.ssh_host:
        yield Problem(f"{path}.ssh_options", "nothing goes over SSH", "set cluster.options.ssh_host")
    if (options.container == "none") != (options.container_image is None):
        message = f"a container needs an image, and an image a container, got container {options.container!r}"
        yield Problem(f"{path}.container_image", message)


def _problems(job: JobSpec) -> Iterator[Problem]:
    if not _READ_BY_SLURM.isdisjoint(job.run_dir):
        message = f"Slurm reads `%` and `\\` in names of files as its own, got {job.run_dir!r}"
        yield Problem("TUNEWRIGHT_HOME", message, "choose a directory without them")
    yield from argument_problems(job)
    yield from variable_problems(job, "process", TOLD_VARIABLES.__contains__, only_plain_names=False)
