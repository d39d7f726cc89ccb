"""An image as one file, for machines that reach nothing: what `docker save` gives, through zstd, with its SHA-256."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import ValidationError

from tunewright.contracts.errors import IntegrityError, NotFound, Unavailable, UsageError
from tunewright.contracts.files import sha256_of_file, sync_directory, write_text_atomically
from tunewright.env_builder.images.daemon import Daemon, LocalImage
from tunewright.env_builder.images.record import BuiltImage, write_image
from tunewright.env_builder.progress import showing_bytes
from tunewright.env_builder.record import EnvironmentPlace

_LEVEL = 6
"""Of zstd: a trainer shrinks to a third; higher levels take minutes for a few percent."""

_PIECE_BYTES = 1 << 20


def sum_file(archive: Path) -> Path:
    """What vouches for the archive, as `sha256sum --check` reads it."""
    return archive.with_name(f"{archive.name}.sha256")


def record_file(archive: Path) -> Path:
    """The image's record, so that it is known where it is loaded."""
    return archive.with_name(f"{archive.name}.json")


def save_image(daemon: Daemon, built: BuiltImage, archive: Path) -> str:
    """Write the image, its record, and last its SHA-256, which it gives. A file that is cut short is never left."""
    import zstandard

    if not archive.parent.is_dir():
        raise UsageError(f"-o {archive}: there is no directory {archive.parent}")
    temporary = archive.with_name(f".{archive.name}.{os.getpid()}.tmp")
    compressor = zstandard.ZstdCompressor(level=_LEVEL, threads=-1)
    sum_file(archive).unlink(missing_ok=True)
    try:
        with temporary.open("wb") as file, compressor.stream_writer(file, closefd=False) as writer:
            for piece in _shown(daemon.client.api.get_image(built.image_id), f"saving {archive.name}", built.bytes):
                writer.write(piece)
            writer.flush(zstandard.FLUSH_FRAME)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(archive)
    except OSError as error:
        raise Unavailable(f"{archive} cannot be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(archive.parent)
    sha256 = sha256_of_file(archive)
    write_text_atomically(record_file(archive), built.model_dump_json(indent=2, by_alias=True) + "\n")
    write_text_atomically(sum_file(archive), f"{sha256}  {archive.name}\n")
    return sha256


def load_image(daemon: Daemon, archive: Path, home: Path) -> BuiltImage:
    """Load an archive into the daemon, and its record into `home`. Nothing is loaded that does not match its SHA-256.

    Raises NotFound, IntegrityError, or Unavailable in the daemon's words.
    """
    check_sum(archive)
    record = _record_of(archive)
    import zstandard

    with archive.open("rb") as file:
        pieces = zstandard.ZstdDecompressor().read_to_iter(file, read_size=_PIECE_BYTES)
        events = daemon.client.api.load_image(_shown(pieces, f"loading {archive.name}", record.bytes))
        for event in events or ():
            if "error" in event:
                raise Unavailable(f"the Docker daemon does not take {archive}: {event['error']}")
    image = daemon.find(record.image_id)
    if image is None:
        raise IntegrityError(f"{archive} holds another image than its record says: no {record.image_id}")
    return _kept(daemon, record, image, home)


def check_sum(archive: Path) -> None:
    """Raise unless the archive is what its SHA-256 says."""
    if not archive.is_file():
        raise NotFound(f"{archive}: no such file")
    if not sum_file(archive).is_file():
        hint = "copy it along with the archive: it is written last, so without it the archive may be half"
        raise NotFound(f"{sum_file(archive)}: no such file", hint)
    wanted, actual = sum_file(archive).read_text().split()[0], sha256_of_file(archive)
    if actual != wanted:
        raise IntegrityError(f"{archive}: sha256 is {actual}, must be {wanted}", "copy it again")


def _record_of(archive: Path) -> BuiltImage:
    try:
        return BuiltImage.model_validate_json(record_file(archive).read_bytes())
    except FileNotFoundError:
        raise NotFound(f"{record_file(archive)}: no such file", "copy it along with the archive") from None
    except ValidationError as error:
        raise IntegrityError(f"{record_file(archive)} is no record of an image: {error.errors()[0]['msg']}") from None


def _kept(daemon: Daemon, record: BuiltImage, image: LocalImage, home: Path) -> BuiltImage:
    """The record in this home, and its names: the image came in an archive, and no registry is near."""
    for name in record.names:
        daemon.tag(image.image_id, name)
    kept = record.model_copy(
        update={"found_in": "archive", "reference": image.image_id, "repo_digests": image.repo_digests}
    )
    write_image(EnvironmentPlace(home, record.key), kept)
    return kept


def _shown(pieces: Iterable[bytes], what: str, total_bytes: int) -> Iterator[bytes]:
    done = 0
    with showing_bytes(what) as show:
        for piece in pieces:
            done += len(piece)
            show(done, total_bytes)
            yield piece
