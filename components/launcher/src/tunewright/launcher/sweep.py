"""The points of a sweep: each the experiment with other values, checked as a whole, and planned quickly."""

from __future__ import annotations

import os
import re
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from tunewright.contracts.errors import InvalidExperiment, PreflightFailed, Problem, TunewrightError, UsageError
from tunewright.contracts.experiment import NAME_PATTERN, ExperimentSpec, ModelSpec
from tunewright.contracts.experiment_file import LoadedExperiment, parse_spec
from tunewright.contracts.jobs import JobSpec, ModelReference, SubmissionPlan
from tunewright.contracts.plugins import KnownFindings, PluginHost
from tunewright.contracts.preflight import PreflightReport
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.spec import Spec
from tunewright.launcher.clusters import open_cluster
from tunewright.launcher.code_origin import inspect_checkout
from tunewright.launcher.grid import Axis, Choice, points_of, run_names, with_value
from tunewright.launcher.preflight import refuse_errors, run_preflight
from tunewright.launcher.prepare import (
    CheckedExperiment,
    ExperimentArguments,
    all_assignments,
    check_experiments,
    find_model,
    job_like,
    launch_origin,
    make_job,
    options_of,
    plan_job,
)
from tunewright.launcher.questions import ASKED_ABOUT, Prepared, RememberedAnswers
from tunewright.launcher.resolve import Known, load_with_options, resolve_stages

_SHOWN_POINTS = 5
_NO_STAGES = "sweep the stage in a file of its own"
Found = TypeVar("Found", bound=typing.Hashable)


@dataclass(frozen=True)
class Point:
    """One run of a sweep, before it is planned."""

    choice: Choice
    """What it has of the grid."""

    checked: CheckedExperiment
    """Its experiment."""


@dataclass(frozen=True)
class PlannedPoint:
    """One run of a sweep, and what its cluster will get."""

    point: Point
    run: str
    job: JobSpec
    submission: SubmissionPlan
    """As it is sent where it is sent alone."""


def check_sweep(arguments: ExperimentArguments, axes: Sequence[Axis], host: PluginHost) -> tuple[Point, ...]:
    """Load, resolve and judge every point of the grid. Writes nothing; raises what is wrong with any of them.

    What all points have in common is read, hashed and asked for once.
    """
    if arguments.cluster is not None and any(axis.path == "cluster.name" for axis in axes):
        raise UsageError("--cluster and --grid cluster.name: both say where to run it", "leave --cluster out")
    choices = list(points_of(axes))
    try:
        with _saying_grid(choices[0]):
            base = check_experiments(_at(arguments, choices[0]), host)[0]
        if base.loaded.stage is not None:
            raise UsageError(f"{arguments.path}: has stages; a sweep is of an experiment without", _NO_STAGES)
        points = judged(vary(base, axes))
    except InvalidExperiment as error:
        raise _every_problem(arguments, choices, host, error) from None
    except PreflightFailed:
        _refuse_every_finding(arguments, choices, host)
        raise
    return points


def _at(arguments: ExperimentArguments, choice: Choice) -> ExperimentArguments:
    """The arguments of `launch` for one point alone."""
    return replace(arguments, assignments=(*arguments.assignments, *choice.assignments), name=None)


@contextmanager
def _saying_grid(choice: Choice) -> Iterator[None]:
    """The faults of an assignment that came from a --grid are told as that one's."""
    try:
        yield
    except UsageError as error:
        for assignment in choice.assignments:
            error.message = error.message.replace(f"--set {assignment}:", f"--grid {assignment}:")
        raise


def vary(base: CheckedExperiment, axes: Sequence[Axis]) -> tuple[Point, ...]:
    """Every point of the grid, from one that is checked: only what the grid changes is looked at again.

    `base` is any experiment of the sweep, its first point usually. The points are not judged yet, see `judged`.
    Raises InvalidExperiment for the first that is wrong.
    """
    specs, base = _Specs(base.loaded.spec, axes), _remembering(base)
    asks_anew = not ASKED_ABOUT.isdisjoint(axis.parts[0] for axis in axes)
    clusters, models = {base.experiment.spec.cluster.name: base.cluster}, {base.loaded.spec.model: base.model}
    known, points = Known(), []
    for choice in points_of(axes):
        loaded = replace(base.loaded, spec=specs.of(choice))
        (experiment,) = resolve_stages((loaded,), base.host, known)
        name = experiment.spec.cluster.name
        if name not in clusters:
            clusters[name] = open_cluster(name, base.host)
        checked = replace(base, loaded=loaded, experiment=experiment, cluster=clusters[name])
        if asks_anew:
            with naming_point(choice):
                checked = _asked_anew(checked, models)
        points.append(Point(choice, checked))
    return tuple(points)


def _asked_anew(checked: CheckedExperiment, models: dict[ModelSpec, ModelReference]) -> CheckedExperiment:
    """The same with the answers to its own questions. `models` were found already."""
    spec = checked.loaded.spec
    if spec.model not in models:
        models[spec.model] = find_model(checked.loaded)
    model, template = models[spec.model], checked.loaded.dataset_model.chat_template
    questions = replace(checked.questions, experiment=checked.experiment, tokenizer=model, chat_template=template)
    return replace(checked, model=model, questions=questions, planned=questions.plan())


def _remembering(base: CheckedExperiment) -> CheckedExperiment:
    """The same, with a memory of what was asked: points that ask the same get the same answer."""
    return replace(base, questions=replace(base.questions, host=RememberedAnswers(base.questions.host)))


@contextmanager
def naming_point(choice: Choice) -> Iterator[None]:
    """Errors inside name the point."""
    try:
        yield
    except TunewrightError as error:
        error.message = f"point {choice.number} ({choice.label}): {error.message}"
        raise


class _Specs:
    """The specs of a grid's points. A table is parsed once for each combination of its own values."""

    def __init__(self, base: ExperimentSpec, axes: Sequence[Axis]) -> None:
        self._axes = [(axis.parts[1:], axis.values) for axis in axes]
        self._document = base.to_document()
        self._base = {name: getattr(base, name) for name in ExperimentSpec.model_fields}
        self._places: dict[str, list[int]] = {}
        for place, axis in enumerate(axes):
            self._places.setdefault(axis.parts[0], []).append(place)
        self._types = {table: _table_type(table) for table in self._places}
        self._parsed: dict[tuple[object, ...], Any] = {}

    def of(self, choice: Choice) -> ExperimentSpec:
        """The experiment of one point. Raises InvalidExperiment."""
        values = dict(self._base)
        for table, places in self._places.items():
            key = (table, *(choice.indices[place] for place in places))
            if key not in self._parsed:
                self._parsed[key] = self._parse(table, places, choice)
            values[table] = self._parsed[key]
        return parse_spec(ExperimentSpec, values, "experiment")

    def _parse(self, table: str, places: Sequence[int], choice: Choice) -> Any:
        value: Any = self._document.get(table)
        for place in places:
            parts, values = self._axes[place]
            chosen = values[choice.indices[place]]
            value = with_value(value, parts, chosen) if parts else chosen
        spec_type = self._types[table]
        return value if spec_type is None else parse_spec(spec_type, value, "experiment", table)


def _table_type(table: str) -> type[Spec] | None:
    """The type of a table of the experiment; None for a plain value as `seed`."""
    annotation = ExperimentSpec.model_fields[table].annotation
    types = (annotation, *typing.get_args(annotation))
    return next((one for one in types if isinstance(one, type) and issubclass(one, Spec)), None)


def judged(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points with what preflight says of each. Raises PreflightFailed with every error of all."""
    checkout, known = points[0].checked.checkout, KnownFindings()
    reports = [
        run_preflight(one.checked.experiment, one.checked.host, one.checked.cluster, checkout.findings, known)
        for one in points
    ]
    refuse_errors(joint_point_report([one.choice for one in points], reports))
    return tuple(
        replace(one, checked=replace(one.checked, report=report)) for one, report in zip(points, reports, strict=True)
    )


def joint_point_report(choices: Sequence[Choice], reports: Sequence[PreflightReport]) -> PreflightReport:
    """The reports of all points as one, each finding with its points; what all have alike once."""
    findings = told_by_point(
        choices,
        [report.findings for report in reports],
        lambda finding, label: finding.model_copy(update={"path": _labelled(label, finding.path)}),
    )
    return PreflightReport(findings=tuple(findings))


def told_by_point(
    choices: Sequence[Choice], found: Sequence[Sequence[Found]], labelled: Callable[[Found, str], Found]
) -> list[Found]:
    """What was found in the points, each once: with the points that have it, unless all of them have."""
    points_with: dict[Found, list[Choice]] = {}
    for choice, ones in zip(choices, found, strict=True):
        for one in dict.fromkeys(ones):
            points_with.setdefault(one, []).append(choice)
    return [
        one if len(some) == len(choices) else labelled(one, _points_label(some)) for one, some in points_with.items()
    ]


def _labelled(label: str, path: str) -> str:
    return f"{label}: {path}" if path else label


def _points_label(choices: Sequence[Choice]) -> str:
    if len(choices) == 1:
        return f"point {choices[0].number} ({choices[0].label})"
    shown = ", ".join(str(choice.number) for choice in choices[:_SHOWN_POINTS])
    left = len(choices) - _SHOWN_POINTS
    return f"points {shown}" + (f" and {left} more" if left > 0 else "")


def _every_problem(
    arguments: ExperimentArguments, choices: Sequence[Choice], host: PluginHost, error: InvalidExperiment
) -> InvalidExperiment:
    """The problems of all points: `error` is of the one that was looked at first."""
    found = [_problems_at(_at(arguments, choice), host) for choice in choices]
    told = told_by_point(choices, found, lambda one, label: Problem(_labelled(label, one.path), one.message, one.hint))
    return InvalidExperiment.from_problems(str(arguments.path), told) if told else error


def _problems_at(arguments: ExperimentArguments, host: PluginHost) -> Sequence[Problem]:
    try:
        resolve_stages(load_with_options(arguments.path, all_assignments(arguments, host), host), host)
    except InvalidExperiment as error:
        return error.problems or (Problem("", error.message, error.hint),)
    return ()


def _refuse_every_finding(arguments: ExperimentArguments, choices: Sequence[Choice], host: PluginHost) -> None:
    """Raise PreflightFailed with what speaks against any point: one was refused already."""
    stages: list[LoadedExperiment] = []
    for choice in choices:
        stages += load_with_options(arguments.path, all_assignments(_at(arguments, choice), host), host)
    checkout = inspect_checkout(stages[0].project_root, stages[0].home, arguments.allow_dirty)
    known = KnownFindings()
    reports = [
        run_preflight(one, host, open_cluster(one.spec.cluster.name, host), checkout.findings, known)
        for one in (resolve_stages((loaded,), host)[0] for loaded in stages)
    ]
    refuse_errors(joint_point_report(choices, reports))


def plan_points(points: Sequence[Point], sweep: str, prepared: Sequence[Prepared] | None = None) -> list[PlannedPoint]:
    """What would be sent for each point of the sweep called `sweep`. Pure, and quick: thousands in a second.

    Without `prepared`, as much of datasets and environments as is known before they are made.
    """
    origin = launch_origin(points[0].checked)
    names, runs = run_names(sweep, len(points)), RunDir.of(points[0].checked.home, sweep).path.parent
    planned, alike = [], dict[tuple[object, ...], tuple[JobSpec, Spec]]()
    for number, (point, name) in enumerate(zip(points, names, strict=True)):
        checked, ready = point.checked, prepared[number] if prepared else point.checked.planned
        spec, run = checked.experiment.spec, RunDir(runs / name)
        # By identity: points share what the grid does not change.
        key = (id(spec.cluster), id(checked.model), id(ready), spec.job)
        if key not in alike:
            alike[key] = make_job(checked, run, ready, origin), options_of(checked)
        first, options = alike[key]
        job = job_like(first, checked, run)
        planned.append(PlannedPoint(point, name, job, plan_job(checked, job, options)))
    return planned


def sweep_name(points: Sequence[Point], name: str | None) -> str:
    """The name of the sweep: `name`, else `<experiment>-sweep`, or the first of `-sweep2`, `-sweep3` ... that is free.

    Raises UsageError where a run's name would be too long, or the name is a run's.
    """
    checked = points[0].checked
    chosen = name or _free_sweep_name(checked)
    last = run_names(chosen, len(points))[-1]
    if not re.fullmatch(NAME_PATTERN, last):
        words = f"--name {chosen}: too long: a point's run would be `{last}`"
        raise UsageError(words, "at most 63 characters; choose a shorter one with --name")
    if RunDir.of(checked.home, chosen).path.exists():
        raise UsageError(f"--name {chosen}: a run has this name", "choose another one for the sweep")
    return chosen


def _free_sweep_name(checked: CheckedExperiment) -> str:
    """Not `-2`, `-3`: so the points are called."""
    base = chosen = f"{checked.loaded.spec.name}-sweep"
    number, runs = 1, os.listdir(checked.home / "runs") if (checked.home / "runs").is_dir() else []
    while (checked.home / "sweeps" / chosen).exists() or any(f"{run}-".startswith(f"{chosen}-") for run in runs):
        number += 1
        chosen = f"{base}{number}"
    return chosen
