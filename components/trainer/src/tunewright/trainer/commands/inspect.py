"""`trainer inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.command("inspect")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def inspect_checkpoint(checkpoint: Path, as_json: bool) -> None:
    """Show what CHECKPOINT holds, after comparing every file with its digest: a checkpoint, a model, or a run.

    Of a run its newest checkpoint is shown, or its model where it has none. A file that differs ends with 65.
    """
    from tunewright.trainer.inspection import inspect_path

    found = inspect_path(checkpoint)
    click.echo(json.dumps(found, indent=2) if as_json else _text(found))


def _text(found: dict[str, Any]) -> str:
    lines = [f"{name}: {value}" for name, value in found.items() if name != "files"]
    lines += [f"  {one['bytes']:>12,}  {one['sha256'][:12]}  {one['file']}" for one in found["files"]]
    return "\n".join(lines)
