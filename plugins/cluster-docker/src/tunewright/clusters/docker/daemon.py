"""The daemon as a submission needs it, through docker-py: images, which may have to be pulled, and whose it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tunewright.clusters.docker.supervision.engine import DEFAULT_HOST
from tunewright.contracts.errors import SubmissionRefused, Unavailable

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.images import Image

_CALL_SECONDS = 60


def docker_host() -> str:
    """The daemon meant here: DOCKER_HOST, or the usual socket."""
    return os.environ.get("DOCKER_HOST") or DEFAULT_HOST


class Daemon:
    """What a submission asks before it starts anything."""

    def __init__(self, client: DockerClient) -> None:
        self._client = client

    def image_id(self, reference: str) -> str:
        """The id of the image: tags move, and a retry must run what the first attempt ran.

        Pulls what has a registry's digest and is not here. Raises SubmissionRefused for what is not to be had.
        """
        from docker.errors import APIError, ImageNotFound

        try:
            return str(self._client.images.get(reference).id)
        except ImageNotFound:
            return str(self._pulled(reference).id)
        except APIError as error:
            raise SubmissionRefused(f"image `{reference}`: {error.explanation or error}") from None

    def _pulled(self, reference: str) -> Image:
        from docker.errors import APIError

        if "@sha256:" not in reference:
            message = f"there is no image `{reference}` on this machine"
            hint = "make it with `env-builder build`; only a reference with a registry's digest is pulled"
            raise SubmissionRefused(message, hint)
        try:
            return self._client.images.pull(reference)
        except APIError as error:
            message = f"image `{reference}` is not on this machine and cannot be pulled: {error.explanation or error}"
            raise SubmissionRefused(message, "is the registry there? See also `docker login`") from None

    def is_rootless(self) -> bool:
        """Whether the daemon is a user's own: the root of its containers is that user."""
        return any("rootless" in option for option in self._client.info().get("SecurityOptions") or ())


@contextmanager
def connected() -> Iterator[Daemon]:
    """The daemon, for a moment. Raises Unavailable where nobody answers, at the start or on the way."""
    from requests.exceptions import RequestException

    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=_CALL_SECONDS)
        try:
            yield Daemon(client)
        finally:
            client.close()
    except (DockerException, RequestException) as error:
        message = f"the Docker daemon at {docker_host()} does not answer: {error}"
        raise Unavailable(message, "start it (`systemctl start docker`), or set DOCKER_HOST") from None
