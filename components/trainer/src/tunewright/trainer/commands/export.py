"""`trainer export`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--to", "destination", type=click.Path(path_type=Path), required=True, help="A new directory.")
@click.option("--merge", is_flag=True, help="Add adapters to their base, in full precision: a model of its own.")
def export(checkpoint: Path, destination: Path, merge: bool) -> None:
    """Write the model of CHECKPOINT to a directory: a checkpoint, a run, or a run's model/.

    Without --merge adapters stay adapters, in peft's format. With it they are added to their base in float32, for
    qlora to the base before it was quantized.
    """
    from tunewright.trainer.export import export_model

    export_model(checkpoint, destination, merge)
    click.echo(str(destination))
