"""`trainer export`."""

from __future__ import annotations

from pathlib import Path

import click

from tunewright.contracts.errors import UsageError


@click.command()
@click.argument("source", metavar="CHECKPOINT|JOB", type=click.Path(path_type=Path))
@click.option("--to", "destination", type=click.Path(path_type=Path), help="A new directory. Not of a JOB.")
@click.option("--merge", is_flag=True, help="Add adapters to their base, in full precision: a model of its own.")
def export(source: Path, destination: Path | None, merge: bool) -> int:
    """Write the model of CHECKPOINT to a directory: a checkpoint, a run, or a run's model/.

    Without --merge adapters stay adapters, in peft's format. With it they are added to their base in float32, for
    qlora to the base before it was quantized.

    Or run JOB, the `job.json` of an experiment with `job = "export"`: its model goes to its run's own model/.
    """
    if source.suffix == ".json":
        return _run_job(source, destination, merge)
    if destination is None:
        raise UsageError("--to: is missing", "name a new directory for the model")
    from tunewright.trainer.export import export_model

    export_model(source, destination, merge)
    click.echo(str(destination))
    return 0


def _run_job(job: Path, destination: Path | None, merge: bool) -> int:
    if destination is not None or merge:
        raise UsageError("--to and --merge: a job says itself what becomes of its model", "leave them out")
    from tunewright.trainer.node import run_node

    return run_node(job)
