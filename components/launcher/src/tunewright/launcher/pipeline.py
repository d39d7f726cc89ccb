"""The stages of an experiment in order: each a run of its own, started when the one before has succeeded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import click

from tunewright.contracts.rundir import RunDir
from tunewright.contracts.status import JobState, JobStatus
from tunewright.launcher.finish import last_document
from tunewright.launcher.launching import EXIT_INTERRUPTED, follow_to_the_end, start, tell_outcome
from tunewright.launcher.prepare import CheckedExperiment, find_model, naming_stage
from tunewright.launcher.progress import json_line
from tunewright.launcher.questions import Prepared
from tunewright.launcher.run_store import all_runs, launch_name, read_json
from tunewright.launcher.states import status_of
from tunewright.launcher.submit import prepare, refuse_another_experiment


@dataclass(frozen=True)
class StageOutcome:
    """How a stage ended, now or in an earlier launch."""

    stage: str
    run: RunDir
    status: JobStatus

    def to_document(self) -> dict[str, Any]:
        """What `--json` has of it in `stages`."""
        document = last_document(self.run, self.status)
        kept = ("run", "state", "exit_code", "run_dir", "model_dir", "record")
        return {"stage": self.stage, **{key: document[key] for key in kept}}


def launch_stages(stages: Sequence[CheckedExperiment], is_named: bool, as_json: bool) -> int:
    """Run each stage that has not succeeded yet; the first that fails is the last. Gives the last one's exit code.

    Everything that all of them need is made before the first one starts: what is wrong with the data of the last stage
    is not told after days of the first.
    """
    if not is_named:
        _tell_of_unfinished(stages)
    are_done = [_has_succeeded(checked) for checked in stages]
    prepared = [None if is_done else _prepare(checked) for checked, is_done in zip(stages, are_done, strict=True)]
    outcomes: list[StageOutcome] = []
    for checked, needed in zip(stages, prepared, strict=True):
        outcome = _run_stage(checked, needed, as_json)
        if outcome is None:
            _tell_what_is_left(stages, len(outcomes) + 1)
            return EXIT_INTERRUPTED
        outcomes.append(outcome)
        if outcome.status.state is not JobState.SUCCEEDED:
            _tell_what_is_left(stages, len(outcomes))
            break
    last = outcomes[-1]
    if as_json:
        documents = [outcome.to_document() for outcome in outcomes]
        click.echo(json_line({**last_document(last.run, last.status), "stages": documents}))
    return last.status.shell_exit_code


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
    if prepared is None:
        refuse_another_experiment(run, checked)  # its model is known only now
        click.echo(f"stage {_name_of(checked)}: run {run.name} has succeeded before; it is not run again", err=True)
        return StageOutcome(_name_of(checked), run, status_of(run, checked.cluster))
    _, handle = start(checked, run.name, prepared)
    click.echo(f"stage {_name_of(checked)}: run {run.name}: {run.path}", err=True)
    if as_json:
        click.echo(json_line({"event": "stage", "stage": _name_of(checked), "run": run.name}))
    status = follow_to_the_end(run, handle, checked.cluster, checked.host, as_json)
    if status is None:
        return None
    tell_outcome(run, status, checked.cluster, as_json)
    return StageOutcome(_name_of(checked), run, status)


def _with_its_model(checked: CheckedExperiment) -> CheckedExperiment:
    """With the model that the stage before has left by now."""
    stage = checked.loaded.stage
    if stage is None or stage.before is None:
        return checked
    return replace(checked, model=find_model(checked.loaded, is_planned=False))


def _tell_what_is_left(stages: Sequence[CheckedExperiment], begun: int) -> None:
    left = ", ".join(f"`{_name_of(checked)}`" for checked in stages[begun:])
    if left:
        name = stages[0].pipeline
        click.echo(f"not started: stage {left}; the same `launch` with --name {name} goes on with it", err=True)


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
