"""`trainer export`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--merge", is_flag=True, help="Add an adapter to its base: a whole model.")
@click.option("--to", "directory", type=click.Path(path_type=Path), required=True, metavar="DIR", help="A new directory.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout, for machines.")
def export(checkpoint: Path, merge: bool, directory: Path, as_json: bool) -> None:
    """Turn CHECKPOINT into a model to load: a checkpoint's directory, a run's model/, or a run.

    Adapters are merged into their base in full precision, also those of qlora: the logits equal adapter on base.
    """
    import json

    from tunewright.trainer.export import export_model, find_source
    from tunewright.trainer.train import quiet_libraries

    quiet_libraries()
    export_model(find_source(checkpoint), directory, merge)
    click.echo(json.dumps({"model_dir": str(directory), "merged": merge}) if as_json else str(directory))
