"""`env-builder compose`."""

from __future__ import annotations

from pathlib import Path

import click
from pydantic import ValidationError

from tunewright.contracts.errors import IntegrityError, NotFound
from tunewright.contracts.files import write_text_atomically
from tunewright.contracts.jobs import JobSpec
from tunewright.contracts.rundir import RunDir
from tunewright.env_builder.commands.common import project


@click.command()
@click.argument("run", metavar="RUN")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="[default: stdout]")
def compose(run: str, output: Path | None) -> None:
    """Write a compose file that mirrors the job of RUN: a run's name, its directory, or a job.json."""
    from tunewright.env_builder.images.compose import compose_text

    text = compose_text(_job(run))
    if output is None:
        click.echo(text, nl=False)
    else:
        write_text_atomically(output, text)


def _job(run: str) -> JobSpec:
    path = Path(run)
    if path.is_dir():
        path = RunDir(path).job
    elif not path.is_file():
        path = RunDir.of(project()[1], run).job
    try:
        return JobSpec.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise NotFound(f"`{run}`: no such run, and no job.json there", "see `launcher list`") from None
    except ValidationError as error:
        raise IntegrityError(f"{path} is no job: {error.errors()[0]['msg']}") from None
