"""`env-builder verify`."""

from __future__ import annotations

from pathlib import Path

import click

from tunewright.contracts.errors import NotFound
from tunewright.env_builder.commands.common import as_json, print_document, project
from tunewright.env_builder.images.find import find_image
from tunewright.env_builder.images.record import BuiltImage
from tunewright.env_builder.record import find_place, verify_built


@click.command()
@click.argument("reference", metavar="REF")
@as_json
def verify(reference: str, as_json: bool) -> None:
    """Prove that the environment REF is what it should be; exit 65 if it is not.

    A PEX: every byte against its record. An image: started without a network, as the user it runs as; each package
    against the lock inside, every import, GPUs, offline variables, models.
    REF is a key, the beginning of one, a path, or what Docker calls the image.
    """
    home = project()[1]
    record, is_pex = _find(home, reference)
    if is_pex:
        _verify_pex(home, reference, as_json)
    else:
        _verify_image(reference, record, as_json)


def _find(home: Path, reference: str) -> tuple[BuiltImage | None, bool]:
    """The image's record, if any, and whether it is a PEX instead. Other machines' images have no record here."""
    try:
        record = find_image(home, reference)
    except NotFound:
        return None, False
    return record, record is None


def _verify_pex(home: Path, reference: str, as_json: bool) -> None:
    built = verify_built(find_place(home, reference))
    if as_json:
        print_document({**built.plain.to_document(), "verified": True, "files": len(built.files)})
    else:
        click.echo(f"{built.key}: {len(built.files)} file(s) as recorded, sha256 {built.sha256}")


def _verify_image(reference: str, record: BuiltImage | None, as_json: bool) -> None:
    from tunewright.env_builder.images.daemon import open_daemon
    from tunewright.env_builder.images.verify import refuse_failed, verify_image

    with open_daemon() as daemon:
        image = daemon.find(record.image_id if record else reference)
        if image is None:
            place = "it was recorded here, but Docker has it no more" if record else "Docker has no such image"
            raise NotFound(
                f"`{reference}`: {place}", "see `env-builder list` and `docker images`; `build` makes it anew"
            )
        report = verify_image(daemon, image, reference, record)
    if as_json:
        print_document({**report.to_document(), "verified": not report.failed})
    else:
        width = max(len(check.name) for check in report.checks)
        for check in report.checks:
            click.echo(f"{'ok    ' if check.ok else 'FAILED'}  {check.name:{width}}  {check.detail}")
    refuse_failed(report)
