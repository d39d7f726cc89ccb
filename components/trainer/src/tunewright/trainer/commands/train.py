"""`trainer train`."""

from __future__ import annotations

from pathlib import Path

import click
from pydantic import ValidationError

from tunewright.contracts.errors import InvalidExperiment, NotFound
from tunewright.contracts.jobs import JobSpec
from tunewright.trainer.processes import end_like, join_processes, leave_processes, must_start_processes, start_processes


@click.command()
@click.argument("job", type=click.Path(path_type=Path))
def train(job: Path) -> int:
    """Train JOB, a job.json: what a cluster runs on each node.

    Goes on from the run's newest whole checkpoint where there is one. With several processes a node it starts them itself.
    """
    spec = read_job(job)
    if must_start_processes(spec):
        return end_like(start_processes(spec, job))
    return train_process(spec)


def read_job(path: Path) -> JobSpec:
    """The job at `path`. Raises NotFound, or InvalidExperiment where it is none."""
    try:
        return JobSpec.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise NotFound(f"{path}: no such job") from None
    except ValidationError as error:
        raise InvalidExperiment(f"{path}: is no job: {error.errors()[0]['msg']}") from None


def train_process(job: JobSpec) -> int:
    """One process of the job, from its start to its end."""
    from tunewright.trainer.finish import fail, finish
    from tunewright.trainer.train import describe, quiet_libraries, read_setting, set_up, speaker, start_summary
    from tunewright.trainer.train import train as run_steps

    quiet_libraries()
    place = join_processes()
    setting = read_setting(job, place, speaker(place))
    summary, training = start_summary(setting), None
    try:
        training = set_up(setting)
        summary = summary.model_copy(update={"resumed_from_step": training.step or None})
        describe(setting, training)
        run_steps(setting, training)
        finish(setting, training, summary)
    except Exception as error:
        fail(setting, summary, training, error)
        raise
    leave_processes()
    return 0
