"""`env-builder build`."""

from __future__ import annotations

import click

from tunewright.contracts.errors import UsageError
from tunewright.env_builder.commands.common import as_json, image_options, print_document, request_of
from tunewright.env_builder.foreign.options import ForeignOptions, foreign_options
from tunewright.env_builder.images.options import ImageOptions


@click.command()
@click.argument("target", required=False)
@click.option("--allow-dirty", is_flag=True, help="Build what lies in the tree; it never replaces the commit's own.")
@click.option("--push", "pushes", is_flag=True, help="Push the image to --registry once it is built.")
@image_options
@foreign_options
@as_json
def build(
    target: str | None,
    allow_dirty: bool,
    pushes: bool,
    options: ImageOptions,
    foreign: ForeignOptions,
    as_json: bool,
) -> None:
    """Build the environment of the commit that is checked out, or find it where it was built before.

    TARGET is an experiment file, whose `[environment]` counts, an image such as images/trainer-cpu, or
    `components/trainer:trainer`, the trainer's PEX, which is the default. With --from it is another project's file.
    """
    if foreign.source is not None:
        if target or pushes or allow_dirty:
            raise UsageError("--from FILE says what is built: it goes with neither TARGET nor --push nor --allow-dirty")
        from tunewright.env_builder.foreign.command import run_build_from

        run_build_from(foreign, as_json)
        return
    request = request_of(target, allow_dirty)
    if request.spec.kind == "image":
        from tunewright.env_builder.images.build import ensure_image

        provided = ensure_image(request, options)
    else:
        from tunewright.env_builder.build import ensure_environment

        provided = ensure_environment(request)
    reference = provided.reference
    if pushes:
        from tunewright.env_builder.images.publish import push_built

        reference = push_built(request.home, reference.key, options.registry)
    if as_json:
        print_document({**reference.to_document(), "built": provided.built})
    else:
        click.echo(reference.reference)
    if not provided.built:
        click.echo("nothing to build: this environment is there", err=True)
