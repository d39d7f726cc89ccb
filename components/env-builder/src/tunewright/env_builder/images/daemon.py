"""The Docker daemon, through docker-py: imported when it is first asked, and its errors in our words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tunewright.contracts.errors import Unavailable
from tunewright.contracts.spec import Spec
from tunewright.env_builder.images import labels

_TIMEOUT_SECONDS = 120


class LocalImage(Spec):
    """An image that the daemon has."""

    image_id: str
    """`sha256:...`: the digest of its configuration, which names its layers."""

    tags: tuple[str, ...] = ()
    """Its names here."""

    repo_digests: tuple[str, ...] = ()
    """`name@sha256:...` of each registry it was pushed to or pulled from."""

    labels: dict[str, str] = {}
    """What its builder said of it."""

    layers: tuple[str, ...] = ()
    """SHA-256 of each layer's content, unpacked, the base's first."""

    variables: dict[str, str] = {}
    """The variables every program in it starts with."""

    bytes: int = 0
    """Its size, unpacked."""

    @property
    def key(self) -> str:
        """What decided it, empty where it is not ours."""
        return self.labels.get(labels.KEY, "")

    def digest_in(self, repository: str) -> str | None:
        """`repository@sha256:...` where it is known there."""
        return next((one for one in self.repo_digests if one.partition("@")[0] == repository), None)


class Daemon:
    """What the env-builder asks of the daemon. `client` is docker-py's, for everything else."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def find(self, reference: str) -> LocalImage | None:
        """The image called so, or with this id, None where the daemon has none."""
        from docker.errors import ImageNotFound, NullResource

        try:
            return _local_image(self.client.api.inspect_image(reference))
        except (ImageNotFound, NullResource):
            return None

    def find_by_key(self, key: str) -> LocalImage | None:
        """The image that was built from these inputs, the newest where there are several.

        One without a name does not count: it is tagged once it is known to start.
        """
        found = self.client.api.images(filters={"label": f"{labels.KEY}={key}", "dangling": False})
        newest = sorted(found, key=lambda one: int(one["Created"]))
        return self.find(newest[-1]["Id"]) if newest else None

    def tag(self, image_id: str, reference: str) -> None:
        """Give the image one more name; it is taken from whichever image had it."""
        repository, _, tag = reference.rpartition(":")
        self.client.api.tag(image_id, repository, tag)

    def root_directory(self) -> str:
        """Where it keeps images."""
        return str(self.client.info()["DockerRootDir"])


@contextmanager
def open_daemon() -> Iterator[Daemon]:
    """A connection to the daemon that DOCKER_HOST names, or the machine's own.

    Raises Unavailable where none answers, also in the middle.
    """
    import docker
    import requests
    from docker.errors import APIError, DockerException

    client = None
    try:
        client = docker.from_env(timeout=_TIMEOUT_SECONDS)
        client.ping()
        yield Daemon(client)
    except APIError as error:
        raise Unavailable(f"the Docker daemon refuses: {error.explanation or error}") from error
    except (DockerException, requests.exceptions.RequestException) as error:
        raise unreachable(error) from None
    finally:
        if client is not None:
            client.close()


def unreachable(error: BaseException) -> Unavailable:
    """No daemon answers: where one was looked for, and what the system says."""
    where = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    words = str(error)
    if "Permission denied" in words or "PermissionError" in words:
        hint = "you may not use it: ask for the group `docker`, or use a rootless daemon through DOCKER_HOST"
        return Unavailable(f"the Docker daemon at {where} does not let you in", hint)
    hint = 'start it (`dockerd`, Docker Desktop), set DOCKER_HOST, or use `kind = "pex"`, which needs none'
    return Unavailable(f"no Docker daemon answers at {where}", hint)


def _local_image(document: dict[str, Any]) -> LocalImage:
    config = document.get("Config") or {}
    pairs = (text.partition("=") for text in config.get("Env") or ())
    return LocalImage(
        image_id=document["Id"],
        tags=tuple(document.get("RepoTags") or ()),
        repo_digests=tuple(document.get("RepoDigests") or ()),
        labels=config.get("Labels") or {},
        layers=tuple((document.get("RootFS") or {}).get("Layers") or ()),
        variables={name: value for name, _, value in pairs},
        bytes=int(document.get("Size") or 0),
    )
