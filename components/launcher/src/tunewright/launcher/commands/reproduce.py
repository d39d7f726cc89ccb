"""`launcher reproduce`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tunewright.contracts.errors import RecordMismatch
from tunewright.contracts.experiment_file import find_home, find_project_root
from tunewright.contracts.files import write_json_atomically
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.provenance import ProvenanceRecord
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.status import JobState, JobStatus
from tunewright.launcher.commands.options import as_json, check_run_name, cluster_option, record_argument
from tunewright.launcher.comparing import Comparison, compare_records, reasons
from tunewright.launcher.costs import with_estimates
from tunewright.launcher.finish import last_document
from tunewright.launcher.launching import EXIT_INTERRUPTED, follow_to_the_end, start, tell_outcome
from tunewright.launcher.preflight import notes
from tunewright.launcher.prepare import CheckedExperiment
from tunewright.launcher.progress import json_line
from tunewright.launcher.recorded_code import Place, recorded_checkout, refuse_unknown_commit
from tunewright.launcher.records import FoundRecord, find_record
from tunewright.launcher.reproducing import (
    check_recorded,
    recorded_experiment,
    refuse_other_data,
    repeated_experiment,
)
from tunewright.launcher.run_store import free_name
from tunewright.launcher.states import status_of
from tunewright.launcher.user_config import read_user_config

_ENDING = "-reproduced"
_LONGEST_NAME = 63


@click.command()
@record_argument
@cluster_option
@click.option(
    "--name", metavar="NAME", callback=check_run_name,
    help="The new run's name, instead of RUN-reproduced. One that is there is gone on with.",
)  # fmt: skip
@click.option("--keep", is_flag=True, help="Leave the worktree of the recorded commit where one was needed.")
@as_json
def reproduce(run: str, cluster: str | None, name: str | None, keep: bool, as_json: bool) -> int:
    """Run RUN again from its record alone, and compare.

    RUN is a run's name, the path of a record (provenance.json), or a run's directory. Code comes from the recorded
    commit, data and models from this clone as they lie. Exits 0 where weights, losses, dataset and environment are the
    same, 65 naming the fields where not or where the data is not what it was, and with the new run's own exit code
    where that fails.
    """
    host, root = PluginHost.discover(), find_project_root(Path.cwd() / "experiment.toml")
    place = Place(root, find_home(root))
    found = find_record(place.home, run)
    recorded = recorded_experiment(found.record)
    spec, changes = repeated_experiment(recorded, cluster, read_user_config(host))
    refuse_unknown_commit(found, place)
    refuse_other_data(found.record, recorded, place)
    with recorded_checkout(found, place, keep) as code:
        checked = check_recorded(found, spec, place, code, host)
        for note in (*notes(checked.report), *(f"note: {change}" for change in changes)):
            click.echo(note, err=True)
        if code[0] != root:
            click.echo(f"code: commit {found.record.code['commit'][:12]}, checked out at {code[0]}", err=True)
        (checked,) = with_estimates((checked,))
        made, status = _run(checked, name or _free_name(place.home, found.record.run), as_json)
    if status is None:
        return EXIT_INTERRUPTED
    if status.state is not JobState.SUCCEEDED:
        if code[0] != root:
            hint = f"in a checkout of {found.record.code['commit'][:12]} its own launcher has `reproduce`, too"
            click.echo(f"note: the code is of another commit than this clone; {hint}", err=True)
        if as_json:
            click.echo(json_line({**last_document(made, status), "reproduces": found.record.run, "same": None}))
        return status.shell_exit_code
    _compare(found, made, status, changes, as_json)
    return 0


def _free_name(home: Path, run: str) -> str:
    return free_name(home, run.removesuffix(_ENDING)[: _LONGEST_NAME - len(_ENDING) - 4] + _ENDING)


def _run(checked: CheckedExperiment, name: str, as_json: bool) -> tuple[RunDir, JobStatus | None]:
    """The new run to its end. One that has ended well before is not run again: it is only compared."""
    run = RunDir.of(checked.home, name)
    if run.provenance.is_file() and (before := status_of(run, checked.cluster)).state is JobState.SUCCEEDED:
        click.echo(f"run {name} has succeeded before; it is not run again", err=True)
        return run, before
    run, handle = start(checked, name)
    click.echo(f"run {run.name}: {run.path}", err=True)
    status = follow_to_the_end(run, handle, checked.cluster, checked.host, as_json)
    if status is not None:
        tell_outcome(run, status, checked.cluster, as_json or status.state is JobState.SUCCEEDED)
    return run, status


def _compare(found: FoundRecord, made: RunDir, status: JobStatus, changes: Sequence[str], as_json: bool) -> None:
    """Tell what is the same, keep it in the new run. Raises RecordMismatch naming what differs."""
    now = ProvenanceRecord.model_validate_json(made.provenance.read_bytes())
    compared = compare_records(found.record, found.run, now, made)
    differing = [one for one in compared if one.differs]
    why = reasons(compared, now)
    document = {
        "reproduces": found.record.run,
        "same": not differing,
        "compared": [one.to_document() for one in compared],
        "changed_on_purpose": list(changes),
        "may_be_why": why,
    }
    write_json_atomically(made.reproduction, document)
    click.echo(json_line({**last_document(made, status), **document}) if as_json else _table(compared))
    if not differing:
        click.echo(f"run `{made.name}` is the same as the record of `{found.record.run}`", err=True)
    for reason in why:
        click.echo(f"may be why: {reason}", err=True)
    if differing:
        told = "".join(f"\n  {_difference(one)}" for one in differing)
        raise RecordMismatch(f"run `{made.name}` is not the same as the record of `{found.record.run}`{told}")


def _table(compared: Sequence[Comparison]) -> str:
    width = max(len(one.field) for one in compared)
    lines = []
    for one in compared:
        word = "same" if one.is_same else "DIFFERS" if one.must_be_same else "other"
        lines.append(f"{one.field:{width}}  {word:7}  {_shown(one)}".rstrip())
    return "\n".join(lines)


def _shown(one: Comparison) -> str:
    if one.is_same:
        return _short(one.now)
    return one.note or f"{_short(one.was)} was, {_short(one.now)} is"


def _difference(one: Comparison) -> str:
    values = f"was {_short(one.was)}, is {_short(one.now)}"
    return f"{one.field}: {values if not isinstance(one.now, dict) else ''}{f' ({one.note})' if one.note else ''}"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return f"{len(value)} values"
    return "none" if value in (None, "", [], {}) else str(value)
