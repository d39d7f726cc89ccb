"""`env-builder push`."""

from __future__ import annotations

import click

from tunewright.contracts.errors import UsageError
from tunewright.env_builder.commands.common import as_json, print_document, project
from tunewright.env_builder.images.find import find_image
from tunewright.env_builder.images.options import ImageOptions


@click.command()
@click.argument("reference", metavar="REF")
@click.option("--registry", metavar="HOST[:PORT][/PATH]", help="Where to. [$TUNEWRIGHT_REGISTRY]")
@as_json
def push(reference: str, registry: str | None, as_json: bool) -> None:
    """Push the image REF with its names. Layers that the registry has are not sent again.

    REF is a key or its beginning, an image's id or one of its names.
    """
    from tunewright.env_builder.images.publish import push_built

    home = project()[1]
    built = find_image(home, reference)
    if built is None:
        raise UsageError(f"`{reference}` is a PEX; only images are pushed")
    pushed = push_built(str(home), built.key, registry or ImageOptions.from_environment().registry)
    if as_json:
        print_document(pushed.to_document())
    else:
        click.echo(pushed.reference)
