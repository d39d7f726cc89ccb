"""`trainer train JOB`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("job", type=click.Path(path_type=Path))
def train(job: Path) -> int:
    """Run JOB (a `job.json`) on this node.

    One process in total trains right here. More are started as torch's elastic launcher starts them, with the
    rendezvous from TUNEWRIGHT_NODE_RANK, TUNEWRIGHT_MASTER_ADDRESS and TUNEWRIGHT_MASTER_PORT. A run that was cut
    short goes on from its newest checkpoint.
    """
    from tunewright.trainer.node import run_node

    return run_node(job)
