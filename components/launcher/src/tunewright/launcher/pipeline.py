"""The stages of an experiment: each a run of its own, started when those that it starts after have succeeded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click

from tunewright.contracts.clusters import Capability
from tunewright.contracts.errors import UsageError
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.status import JobState, JobStatus
from tunewright.launcher.batch import Batch, Member
from tunewright.launcher.drive import start_all_ready, turn_of
from tunewright.launcher.finish import last_document
from tunewright.launcher.launching import EXIT_INTERRUPTED, follow_to_the_end, start, tell_outcome
from tunewright.launcher.prepare import CheckedExperiment, find_model, naming_stage
from tunewright.launcher.progress import json_line
from tunewright.launcher.questions import Prepared
from tunewright.launcher.run_store import all_runs, launch_name, read_json
from tunewright.launcher.states import status_of
from tunewright.launcher.submit import (
    new_run,
    prepare,
    refuse_another_experiment,
    reset_run,
    rewrite_run,
    submit_run,
)
from tunewright.launcher.waiter import start_waiter
from tunewright.launcher.watch import Watch


@dataclass(frozen=True)
class StageOutcome:
    """How a stage ended, now or in an earlier launch."""

    stage: str
    run: RunDir
    status: JobStatus

    def to_document(self) -> dict[str, Any]:
        """What `--json` has of it in `stages`."""
        document = last_document(self.run, self.status)
        kept = ("run", "state", "exit_code", "run_dir", "model_dir", "record", "evaluation")
        return {"stage": self.stage, **{key: document[key] for key in kept if key in document}}


def launch_stages(stages: Sequence[CheckedExperiment], is_named: bool, as_json: bool) -> int:
    """Run each stage that has not succeeded yet, in the order of the file; none after one that has failed.

    Gives 0, or the exit code of the first that failed. Everything that all of them need is made before the first one
    starts: what is wrong with the data of the last stage is not told after days of the first.
    """
    if not is_named:
        _tell_of_unfinished(stages)
    prepared = _prepare_all(stages)
    batch_of(stages).write()
    outcomes: list[StageOutcome] = []
    missed: dict[str, str] = {}
    for checked, needed in zip(stages, prepared, strict=True):
        because = _what_failed_before(checked, outcomes, missed)
        if because is not None:
            missed[_name_of(checked)] = because
            continue
        outcome = _run_stage(checked, needed, as_json)
        if outcome is None:
            _tell_what_is_left(stages, [_name_of(one) for one in stages[len(outcomes) + len(missed) + 1 :]], {})
            return EXIT_INTERRUPTED
        outcomes.append(outcome)
    _tell_what_is_left(stages, list(missed), missed)
    last = next((one for one in outcomes if one.status.state is not JobState.SUCCEEDED), outcomes[-1])
    if as_json:
        documents = [outcome.to_document() for outcome in outcomes]
        click.echo(json_line({**last_document(last.run, last.status), "stages": documents}))
    return last.status.shell_exit_code


def batch_of(stages: Sequence[CheckedExperiment]) -> Batch:
    """The pipeline as its document says: which run starts after which."""
    runs = {_name_of(checked): _run_of(checked).name for checked in stages}
    members = tuple(
        Member(runs[stage.name], tuple(runs[name] for name in stage.after), stage=stage.name)
        for stage in (checked.loaded.stage for checked in stages)
        if stage is not None
    )
    assert stages[0].pipeline is not None
    return Batch("pipeline", stages[0].pipeline, stages[0].home, members)


def _prepare_all(stages: Sequence[CheckedExperiment]) -> list[Prepared | None]:
    """What each stage needs; None for one that has succeeded before."""
    are_done = [_has_succeeded(checked) for checked in stages]
    return [None if is_done else _prepare(checked) for checked, is_done in zip(stages, are_done, strict=True)]


def _what_failed_before(
    checked: CheckedExperiment, outcomes: Sequence[StageOutcome], missed: Mapping[str, str]
) -> str | None:
    """The stage that has failed and that this one starts after, directly or not."""
    failed = {one.stage for one in outcomes if one.status.state is not JobState.SUCCEEDED}
    for name in checked.loaded.stage.after if checked.loaded.stage else ():
        if name in failed or name in missed:
            return missed.get(name, name)
    return None


def _run_of(checked: CheckedExperiment) -> RunDir:
    assert checked.run_name is not None
    return RunDir.of(checked.home, checked.run_name)


def _name_of(checked: CheckedExperiment) -> str:
    assert checked.loaded.stage is not None
    return checked.loaded.stage.name


def _has_succeeded(checked: CheckedExperiment) -> bool:
    """Whether its run is there and has succeeded. Raises UsageError where what is there is another experiment's."""
    run = _run_of(checked)
    if not run.path.exists():
        return False
    refuse_another_experiment(run, checked)
    return status_of(run, checked.cluster).state is JobState.SUCCEEDED


def _prepare(checked: CheckedExperiment) -> Prepared:
    click.echo(f"stage {_name_of(checked)}:", err=True)
    with naming_stage(checked.loaded):
        return prepare(checked)


def _run_stage(checked: CheckedExperiment, prepared: Prepared | None, as_json: bool) -> StageOutcome | None:
    """Run a stage to its end, unless it has succeeded before; None where the user interrupted us."""
    checked, run = _with_its_model(checked), _run_of(checked)
    if prepared is None or _has_succeeded(checked):  # before, or meanwhile: a detached launch may have started it
        return _outcome_before(checked)
    try:
        _, handle = start(checked, run.name, prepared)
    except UsageError:
        if _has_succeeded(checked):  # between two questions
            return _outcome_before(checked)
        raise
    click.echo(f"stage {_name_of(checked)}: run {run.name}: {run.path}", err=True)
    if as_json:
        click.echo(json_line({"event": "stage", "stage": _name_of(checked), "run": run.name}))
    status = follow_to_the_end(run, handle, checked.cluster, checked.host, as_json)
    if status is None:
        return None
    tell_outcome(run, status, checked.cluster, as_json)
    return StageOutcome(_name_of(checked), run, status)


def _outcome_before(checked: CheckedExperiment) -> StageOutcome:
    run = _run_of(checked)
    refuse_another_experiment(run, checked)  # its model is known only now
    click.echo(f"stage {_name_of(checked)}: run {run.name} has succeeded before; it is not run again", err=True)
    return StageOutcome(_name_of(checked), run, status_of(run, checked.cluster))


def _with_its_model(checked: CheckedExperiment) -> CheckedExperiment:
    """With the model that the stage before has left by now."""
    stage = checked.loaded.stage
    if stage is None or stage.before is None:
        return checked
    return replace(checked, model=find_model(checked.loaded, is_planned=False))


def _tell_what_is_left(stages: Sequence[CheckedExperiment], left: Sequence[str], because: Mapping[str, str]) -> None:
    named = ", ".join(f"`{name}`" for name in left)
    if left:
        failed = ", ".join(f"`{name}`" for name in dict.fromkeys(because.values()))
        why = f" (dependency: stage {failed} has not succeeded)" if failed else ""
        hint = f"the same `launch` with --name {stages[0].pipeline} goes on with it"
        click.echo(f"not started: stage {named}{why}; {hint}", err=True)


def detach_stages(stages: Sequence[CheckedExperiment], is_named: bool, as_json: bool) -> int:
    """Make the runs of all stages, and have them started without us: by their cluster where it can, else by a waiter.

    A later stage is planned with its model as the stage before will leave it: without a digest.
    """
    if not is_named:
        _tell_of_unfinished(stages)
    prepared, batch = _prepare_all(stages), batch_of(stages)
    batch.write()
    watch = Watch(batch, stages[0].host)
    with turn_of(batch) as turn:
        if turn.take():
            for checked, needed in zip(stages, prepared, strict=True):
                if needed is not None:
                    _make_ready(checked, needed)
            statuses = _start_natively(stages, watch) if _is_native(stages) else start_all_ready(watch)
        else:
            click.echo(f"pipeline {batch.name}: another process starts its runs already", err=True)
            statuses = watch.look()
    if any(run not in watch.handles and not one.state.is_terminal for run, one in statuses.items()):
        start_waiter(batch)
    click.echo(json_line(_detached_document(stages, batch, statuses)) if as_json else batch.name)
    return 0


def _make_ready(checked: CheckedExperiment, prepared: Prepared) -> None:
    """Its run, made, or made ready to be sent again where it was cut short."""
    run = _run_of(checked)
    with naming_stage(checked.loaded):
        if not run.path.exists():
            new_run(checked, run.name, prepared)
            return
        is_changed = read_json(run.resolved).get("digest") != checked.experiment.digest
        if is_changed and not status_of(run, checked.cluster).state.is_terminal:
            words = f"--name {checked.pipeline}: run {run.name} is not at its end, and has other settings than these"
            raise UsageError(words, f"`launcher stop {checked.pipeline}` first; then it goes on with these")
        reset_run(run, checked.cluster, (lambda: rewrite_run(run, checked, prepared)) if is_changed else None)


def _is_native(stages: Sequence[CheckedExperiment]) -> bool:
    """Whether one cluster has all stages, and starts jobs after others itself."""
    names = {checked.experiment.spec.cluster.name for checked in stages}
    return len(names) == 1 and Capability.DEPENDS in stages[0].host.clusters.get(names.pop()).capabilities


def _start_natively(stages: Sequence[CheckedExperiment], watch: Watch) -> dict[str, JobStatus]:
    """Send every stage that is not sent yet, after those that it starts after and that have not succeeded yet."""
    statuses = watch.look()
    for member, checked in zip(watch.batch.members, stages, strict=True):
        if member.run in watch.handles or statuses[member.run].state is JobState.SUCCEEDED:
            continue
        pending = [run for run in member.after if statuses[run].state is not JobState.SUCCEEDED]
        with naming_stage(checked.loaded):
            submit_run(_run_of(checked), checked.cluster, checked.host, [watch.handles[run] for run in pending])
        statuses = watch.look()
    return statuses


def _detached_document(
    stages: Sequence[CheckedExperiment], batch: Batch, statuses: Mapping[str, JobStatus]
) -> dict[str, Any]:
    """What `--json` has: the first stage that has not succeeded, as `launch --detach` has a run, and all stages."""
    outcomes = [StageOutcome(_name_of(one), _run_of(one), statuses[_run_of(one).name]) for one in stages]
    first = next((one for one in outcomes if one.status.state is not JobState.SUCCEEDED), outcomes[-1])
    documents = [outcome.to_document() for outcome in outcomes]
    return {**last_document(first.run, first.status), "pipeline": batch.name, "stages": documents}


def _tell_of_unfinished(stages: Sequence[CheckedExperiment]) -> None:
    """Say where an earlier launch of the same stages has not come to its end."""
    first = stages[0]
    for run in reversed(all_runs(first.home)):
        if read_json(run.resolved).get("digest") != first.experiment.digest or launch_name(run) == run.name:
            continue
        name = launch_name(run)
        if not all(_is_recorded(RunDir.of(first.home, f"{name}-{_name_of(checked)}")) for checked in stages):
            click.echo(f"note: {name} of the same experiment has not come to its end; ", err=True, nl=False)
            click.echo(f"the same `launch` with --name {name} goes on with it", err=True)
        return


def _is_recorded(run: RunDir) -> bool:
    return (read_json(run.provenance).get("outcome") or {}).get("state") == JobState.SUCCEEDED
