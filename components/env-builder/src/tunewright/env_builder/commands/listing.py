"""`env-builder list`."""

from __future__ import annotations

import click

from tunewright.env_builder.commands.common import as_json, print_document, project
from tunewright.env_builder.images.record import BuiltImage, list_images
from tunewright.env_builder.record import BuiltEnvironment, list_built


@click.command(name="list")
@as_json
def list_environments(as_json: bool) -> None:
    """List the environments that are built, the oldest first: PEXes, and images as they were recorded."""
    home = project()[1]
    every: list[BuiltEnvironment | BuiltImage] = [*list_built(home), *list_images(home)]
    every.sort(key=lambda built: built.built_at)
    if as_json:
        print_document([built.model_dump(mode="json", exclude={"files"}) for built in every])
        return
    for built in every:
        click.echo(_line(built))


def _line(built: BuiltEnvironment | BuiltImage) -> str:
    if isinstance(built, BuiltImage):
        size_bytes, name = built.bytes, next(iter(built.names), built.reference)
    else:
        size_bytes, name = sum(record.bytes for record in built.files), built.reference
    size = f"{size_bytes / 2**20:7.1f} MiB"
    return f"{built.key[:16]}  {built.built_at}  {_origin(built)}  {size}  {built.kind:5}  {name}"


def _origin(built: BuiltEnvironment | BuiltImage) -> str:
    """What it was made of: a commit of ours, or another project's lock."""
    return f"commit {built.commit[:12]}" if built.commit else f"lock   {str(built.lock_digest)[:12]}"
