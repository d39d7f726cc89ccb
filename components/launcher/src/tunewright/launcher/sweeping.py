"""A checked sweep, launched: its runs made, sent as an array or one by one, followed together, told as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import click

from tunewright.contracts.errors import UsageError
from tunewright.contracts.status import JobState, JobStatus
from tunewright.launcher.arrays import finish_arrays, submit_arrays
from tunewright.launcher.batch import Batch, Member, exit_code_of, read_batch
from tunewright.launcher.batch_progress import batch_reporter_for, counts_text
from tunewright.launcher.batch_results import batch_document, results_of, table_text
from tunewright.launcher.drive import Turn, drive, start_all_ready, turn_of
from tunewright.launcher.grid import Axis, run_names
from tunewright.launcher.launching import EXIT_INTERRUPTED, ended_by_sigterm
from tunewright.launcher.progress import json_line
from tunewright.launcher.questions import Prepared
from tunewright.launcher.run_store import read_json
from tunewright.launcher.submit import prepare, refuse_another_experiment, reset_run, rewrite_run, write_run
from tunewright.launcher.sweep import PlannedPoint, Point, naming_point, plan_points, sweep_name
from tunewright.launcher.waiter import start_waiter
from tunewright.launcher.watch import Watch


def make_batch(points: Sequence[Point], axes: Sequence[Axis], name: str | None, at_most: int | None) -> Batch:
    """The sweep as its document will say. Raises UsageError where one of that name has another grid."""
    home, chosen = points[0].checked.home, sweep_name(points, name)
    members = tuple(
        Member(run, point=point.choice.plain_values)
        for run, point in zip(run_names(chosen, len(points)), points, strict=True)
    )
    batch = Batch("sweep", chosen, home, members, at_most, tuple((axis.path, axis.texts) for axis in axes))
    there = read_batch(home, "sweep", chosen)
    if there is not None and there.grid != batch.grid:
        was = " ".join(f"--grid {path}={','.join(values)}" for path, values in there.grid)
        raise UsageError(f"--name {chosen}: this sweep is there, with another grid", f"it was: {was}")
    return batch


def launch_sweep(points: Sequence[Point], batch: Batch, detach: bool, as_json: bool) -> int:
    """Run every point that has not succeeded yet. Gives 0, or the exit code of the first that has not."""
    watch = Watch(batch, points[0].checked.host)
    wanted = _plan_wanted(points, watch)
    batch.write()
    click.echo(f"sweep {batch.name}: {len(points)} points, {len(wanted.planned)} to run: {batch.directory}", err=True)
    with ended_by_sigterm(), turn_of(batch) as turn:
        try:
            if turn.take():
                _send(wanted, watch)
            else:
                click.echo(f"sweep {batch.name}: another process starts its runs; they are followed", err=True)
            if detach:
                return _detached(watch, turn, as_json)
            statuses = drive(watch, batch_reporter_for(batch, as_json), turn)
        except KeyboardInterrupt:
            tell_interrupted(watch)
            return EXIT_INTERRUPTED
    tell_batch(batch, statuses, as_json)
    return exit_code_of(batch.members, statuses)


@dataclass(frozen=True)
class _Wanted:
    """What is to be run: the points with their planned runs, and what they need."""

    planned: tuple[PlannedPoint, ...]
    prepared: tuple[Prepared, ...]


def _send(wanted: _Wanted, watch: Watch) -> None:
    """Make the runs that are to be run, and send as arrays those that can be."""
    for planned, prepared in zip(wanted.planned, wanted.prepared, strict=True):
        _make_run(watch, planned, prepared)
    finish_arrays(watch)
    after = watch.look()
    unsent = [one for one in wanted.planned if one.run not in watch.handles]
    has_others = any(not after[run].state.is_terminal for run in watch.handles)
    submit_arrays(watch, unsent, has_others)


def _refuse_another(batch: Batch, member: Member, point: Point, status: JobStatus) -> None:
    """Raise UsageError where its run is another experiment's, or runs with other settings."""
    run = batch.run_dir(member.run)
    if not run.path.exists():
        return
    refuse_another_experiment(run, point.checked, batch.name)
    is_changed = read_json(run.resolved).get("digest") != point.checked.experiment.digest
    if is_changed and not status.state.is_terminal:
        words = f"--name {batch.name}: run {run.name} is {status.state.lower()}, with other settings than these"
        raise UsageError(words, f"`launcher stop {batch.name}` first; then it goes on with these")


def _plan_wanted(points: Sequence[Point], watch: Watch) -> _Wanted:
    """Prepare what the points need that have not succeeded and do not run; then plan them. Nothing of them is made."""
    batch, statuses = watch.batch, watch.look()
    for member, point in zip(batch.members, points, strict=True):
        _refuse_another(batch, member, point, statuses[member.run])
    is_wanted = [
        not batch.run_dir(member.run).path.exists()
        or (statuses[member.run].state.is_terminal and statuses[member.run].state is not JobState.SUCCEEDED)
        or (member.run not in watch.handles and not statuses[member.run].state.is_terminal)
        for member in batch.members
    ]
    prepared = _prepare_each([point for point, wanted in zip(points, is_wanted, strict=True) if wanted])
    needed = iter(prepared)
    all_prepared = [next(needed) if wanted else point.checked.planned
                    for point, wanted in zip(points, is_wanted, strict=True)]  # fmt: skip
    planned = plan_points(points, batch.name, all_prepared) if prepared else []
    chosen = [(one, made) for one, made, wanted in zip(planned, all_prepared, is_wanted, strict=False) if wanted]
    return _Wanted(tuple(one for one, _ in chosen), tuple(made for _, made in chosen))


def _prepare_each(points: Sequence[Point]) -> list[Prepared]:
    """What each point needs, made once for all that need the same."""
    made: dict[tuple[str, ...], Prepared] = {}
    keys = [_key_of(point.checked.planned) for point in points]
    for point, key in zip(points, keys, strict=True):
        if key not in made:
            with naming_point(point.choice):
                made[key] = prepare(point.checked)
    return [made[key] for key in keys]


def _key_of(planned: Prepared) -> tuple[str, ...]:
    evaluation = planned.evaluation_dataset
    return planned.environment.key, planned.dataset.digest, evaluation.digest if evaluation else ""


def _make_run(watch: Watch, planned: PlannedPoint, prepared: Prepared) -> None:
    """A new run, or one that has ended made ready to be sent again, with the settings of now."""
    run, checked = watch.batch.run_dir(planned.run), planned.point.checked
    belonging = {"sweep": watch.batch.name}
    if not run.path.exists() and write_run(run, checked, prepared, planned.job, planned.submission, belonging):
        return
    is_changed = read_json(run.resolved).get("digest") != checked.experiment.digest
    reset_run(run, checked.cluster, (lambda: rewrite_run(run, checked, prepared)) if is_changed else None)
    watch.forget(planned.run)


def _detached(watch: Watch, turn: Turn, as_json: bool) -> int:
    """Start what may start now. What must wait for others is left to a waiter."""
    statuses = start_all_ready(watch) if turn.take() else watch.look()
    turn.give_back()
    if any(run not in watch.handles and not one.state.is_terminal for run, one in statuses.items()):
        start_waiter(watch.batch)
    click.echo(json_line(batch_document(watch.batch, statuses)) if as_json else watch.batch.name)
    return 0


def tell_batch(batch: Batch, statuses: Mapping[str, JobStatus], as_json: bool) -> None:
    """The end: the table of results as data, for people or for machines."""
    if as_json:
        click.echo(json_line(batch_document(batch, statuses)))
    else:
        click.echo(table_text(batch, results_of(batch, statuses)))
    failed = [run for run, status in statuses.items() if status.state is not JobState.SUCCEEDED]
    if failed:
        click.echo(f"  log:    launcher logs {failed[0]}", err=True)
        click.echo(f"  to go on: {go_on_with(batch)}", err=True)


def go_on_with(batch: Batch) -> str:
    """The command that goes on with a batch."""
    return f"the same `{'sweep' if batch.kind == 'sweep' else 'launch'}` with --name {batch.name}"


def tell_interrupted(watch: Watch) -> None:
    """Ctrl-C: the jobs go on, and whoever starts the rest is told."""
    batch, statuses = watch.batch, watch.look()
    click.echo(f"\n{batch.name}: {counts_text({run: one.state.value for run, one in statuses.items()})}", err=True)
    waiting = [run for run, one in statuses.items() if run not in watch.handles and not one.state.is_terminal]
    if waiting:
        words = f"what runs goes on; {len(waiting)} are not started: {go_on_with(batch)} goes on with them"
        click.echo(words, err=True)
    else:
        click.echo(f"the jobs go on; `launcher wait {batch.name}` finds them again", err=True)
