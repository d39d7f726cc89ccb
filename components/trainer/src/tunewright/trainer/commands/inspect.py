"""`trainer inspect`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tunewright.contracts.checkpoints import verify_checkpoint


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout, for machines.")
def inspect(checkpoint: Path, as_json: bool) -> None:
    """Show what CHECKPOINT holds. Every file is read and compared with its digest: exit 65 where one differs."""
    manifest = verify_checkpoint(checkpoint)
    if as_json:
        click.echo(json.dumps(manifest.to_document(), indent=2))
        return
    click.echo(f"step {manifest.step}, variant {manifest.variant}, {manifest.num_processes} process(es)")
    click.echo(f"experiment {manifest.experiment_digest}\ndataset    {manifest.dataset_digest}")
    for file in manifest.files:
        click.echo(f"{file.bytes:>12,}  {file.sha256}  {file.file}")
    click.echo("all files match their digests")
