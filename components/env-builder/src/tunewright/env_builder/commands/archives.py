"""`env-builder save` and `load`."""

from __future__ import annotations

from pathlib import Path

import click

from tunewright.contracts.errors import NotFound, UsageError
from tunewright.env_builder.commands.common import as_json, print_document, project
from tunewright.env_builder.images.find import find_image
from tunewright.env_builder.progress import say


@click.command()
@click.argument("reference", metavar="REF")
@click.option("-o", "--output", "archive", type=click.Path(path_type=Path), required=True, metavar="FILE")
@as_json
def save(reference: str, archive: Path, as_json: bool) -> None:
    """Write the image REF to FILE (zstd), with FILE.sha256 and its record FILE.json beside it: copy all three."""
    from tunewright.env_builder.images.archive import save_image
    from tunewright.env_builder.images.daemon import open_daemon

    built = find_image(project()[1], reference)
    if built is None:
        raise UsageError(f"`{reference}` is a PEX: copy its directory; only images are saved")
    with open_daemon() as daemon:
        if daemon.find(built.image_id) is None:
            raise NotFound(f"the image {built.image_id} is not here any more", "build it again")
        sha256 = save_image(daemon, built, archive)
    if as_json:
        print_document(
            {"file": str(archive), "sha256": sha256, "bytes": archive.stat().st_size, "image": built.image_id}
        )
    else:
        click.echo(f"{sha256}  {archive}")


@click.command()
@click.argument("archive", type=click.Path(path_type=Path), metavar="FILE")
@as_json
def load(archive: Path, as_json: bool) -> None:
    """Load the image that `save` wrote to FILE, once its SHA-256 is what FILE.sha256 says."""
    from tunewright.env_builder.images.archive import load_image
    from tunewright.env_builder.images.daemon import open_daemon

    with open_daemon() as daemon:
        loaded = load_image(daemon, archive, project()[1])
    if as_json:
        print_document(loaded.to_document())
    else:
        click.echo(loaded.image_id)
        say(f"loaded {', '.join(loaded.names[:1])}")
