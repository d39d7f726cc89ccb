"""The environment's image on Beaker: found there by its digest's name, or sent there by this machine's daemon."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tunewright.clusters.beaker.service import Service
from tunewright.contracts.errors import SubmissionRefused, Unavailable

if TYPE_CHECKING:
    from beaker import beaker_pb2 as pb2


def ensure_image(service: Service, workspace_id: str, name: str, upload: Mapping[str, Any], budget: str | None) -> str:
    """The full name of image `name`, sent where Beaker has it not. A sending that was cut short is finished."""
    there = service.find_image(name)
    if there is None or not there.HasField("committed"):
        image_id = there.id if there is not None else _register(service, workspace_id, name, upload, budget)
        _push(service, image_id, str(upload["reference"]))
        service.client.image.http_request(f"images/{image_id}", method="PATCH", data={"commit": True})
    return f"{service.user}/{name}"


def _register(service: Service, workspace_id: str, name: str, upload: Mapping[str, Any], budget: str | None) -> str:
    """Tell Beaker of an image; its id. Another process may have told it already."""
    from beaker.exceptions import BeakerImageConflict

    reference = str(upload["reference"])
    data: dict[str, Any] = {
        "workspace": workspace_id,
        "imageId": _local_image(reference).id,
        "imageTag": reference,
        "description": _description(reference, upload.get("commit")),
    }
    if budget:
        data["budget"] = service.client.image.resolve_budget_id(budget)
    try:
        return str(service.post("images", data, {"name": name}, BeakerImageConflict(name))["id"])
    except BeakerImageConflict:
        there: pb2.Image | None = service.find_image(name)
        if there is None:
            raise
        return str(there.id)


def _description(reference: str, commit: str | None) -> str:
    """What it is made of, in full: a short commit may be two."""
    digest = found.group(0) if (found := re.search(r"sha256:[0-9a-f]{64}", reference)) else reference
    return f"Tunewright environment {digest}" + (f", commit {commit}" if commit else "")


def _local_image(reference: str) -> Any:
    import docker
    from docker.errors import DockerException, ImageNotFound

    try:
        return docker.from_env().images.get(reference)
    except ImageNotFound:
        hint = "make it with `env-builder build`"
        raise SubmissionRefused(f"there is no image `{reference}` on this machine to upload", hint) from None
    except DockerException as error:
        raise Unavailable(f"the Docker daemon that has the image does not answer: {error}") from None


def _push(service: Service, image_id: str, reference: str) -> None:
    """Send the layers to Beaker's registry, which tells for how long and as whom."""
    import docker

    image = _local_image(reference)
    repository = service.client.image.http_request(f"images/{image_id}/repository", query={"upload": True}).json()
    image.tag(repository["imageTag"])
    own = repository["auth"]
    auth = {"username": own["user"], "password": own["password"], "server_address": own["server_address"]}
    client = docker.from_env(timeout=600)
    try:
        for said in client.api.push(repository["imageTag"], stream=True, decode=True, auth_config=auth):
            if "error" in said:
                raise Unavailable(f"image `{reference}` could not be sent to Beaker: {said['error']}")
    finally:
        client.images.remove(repository["imageTag"], noprune=True)
        client.close()
