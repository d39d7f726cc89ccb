"""`trainer evaluate JOB`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("job", type=click.Path(path_type=Path))
def evaluate(job: Path) -> int:
    """Measure the model of JOB (a `job.json` of an experiment with `job = "evaluate"`) on this node.

    Loss and exact match on the job's dataset, and the tasks of lm-evaluation-harness that it names. Processes are
    started as `train` starts them. The results are `evaluation.json` and `evaluation_rows.jsonl` of the run; one that
    was cut short goes on with the rows that are left.
    """
    from tunewright.trainer.node import run_node

    return run_node(job)
