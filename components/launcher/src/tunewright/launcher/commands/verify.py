"""`launcher verify`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import click

from tunewright.contracts.errors import RecordMismatch
from tunewright.contracts.plugins import PluginHost
from tunewright.launcher.commands.options import as_json, current_home, print_json, record_argument
from tunewright.launcher.records import FoundRecord, find_record
from tunewright.launcher.verifying import Finding, Item, check_run

_SHOWN_CHARACTERS = 72


@click.command()
@record_argument
@as_json
def verify(run: str, as_json: bool) -> None:
    """Show the reproducibility checklist of RUN, and compare every file it left with its digest.

    RUN is a run's name, the path of a record (provenance.json), or a run's directory. Exits 65, naming the fields,
    where anything is missing or differs. What cannot be looked at from here is told and no fault.
    """
    found = find_record(current_home(), run)
    items = check_run(found.record, found.run, PluginHost.discover())
    if as_json:
        print_json(_document(found, items))
    else:
        click.echo(_table(items))
    _refuse_faults(found.record.run, items)


def _document(found: FoundRecord, items: Sequence[Item]) -> dict[str, Any]:
    return {
        "run": found.record.run,
        "record": str(found.path),
        "complete": not _faults(items),
        "counts": Counter(item.finding.value for item in items),
        "not_deterministic": found.record.randomness.get("determinism", {}).get("not_deterministic", []),
        "items": [item.to_document() for item in items],
    }


def _table(items: Sequence[Item]) -> str:
    width = max(len(item.field) for item in items)
    lines = [f"{item.field:{width}}  {item.finding.value:8}  {_words(item)}".rstrip() for item in items]
    counts = Counter(item.finding for item in items)
    summary = ", ".join(f"{counts[finding]} {finding.value}" for finding in Finding if counts[finding])
    return "\n".join([*lines, summary])


def _words(item: Item) -> str:
    if item.finding in (Finding.DIFFERS, Finding.MISSING):
        return item.why
    shown = item.value if len(item.value) <= _SHOWN_CHARACTERS else item.value[: _SHOWN_CHARACTERS - 3] + "..."
    return f"{shown}  ({item.why})" if item.why else shown


def _faults(items: Sequence[Item]) -> list[Item]:
    return [item for item in items if item.finding in (Finding.MISSING, Finding.DIFFERS)]


def _refuse_faults(run: str, items: Sequence[Item]) -> None:
    faults = _faults(items)
    if faults:
        told = "".join(f"\n  {item.field}: {item.finding.value}: {item.why or item.value}" for item in faults)
        raise RecordMismatch(f"run `{run}`: {len(faults)} of {len(items)} items are not as they should be{told}")
