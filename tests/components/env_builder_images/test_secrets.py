"""A secret value that is near a build is in no layer, history, label, record or log."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.env_builder_images.image_checkout import ImageCheckout, docker_client, image_checkout
from tunewright.env_builder.images.buildkit import BuildRequest, build_image, find_client

SECRETS = {
    "HF_TOKEN": "hf_leaked0123456789",
    "PIP_INDEX_URL": "https://user:leaked-index-word@packages.invalid/simple",
    "WANDB_API_KEY": "leaked-tracking-key",
    "TUNEWRIGHT_SECRET_MINE": "leaked-run-secret",
}
WORDS = ("leaked0123456789", "leaked-index-word", "leaked-tracking-key", "leaked-run-secret", "leaked-remote-word")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, small_base: str) -> Iterator[ImageCheckout]:
    with image_checkout(tmp_path_factory.mktemp("secrets"), small_base) as made:
        made.git("remote", "add", "origin", "https://someone:leaked-remote-word@git.invalid/lab/project.git")
        yield made


def bytes_of(image: str) -> bytes:
    """Everything that Docker would hand on of an image: configuration, history, labels, layers, unpacked or not."""
    with docker_client() as client:
        saved = b"".join(client.api.get_image(image))
    layers = b""
    with tarfile.open(fileobj=io.BytesIO(saved)) as outer:
        layers = b"".join(_content(outer, member) for member in outer.getmembers() if member.isfile())
    assert b"tiny_program" in layers, "this does not look into the layers"
    return saved + layers


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def found(content: bytes) -> list[str]:
    return [word for word in WORDS if word.encode() in content]


def test_variables_of_whoever_builds_and_of_the_remote_are_nowhere(small: ImageCheckout) -> None:
    result = small.call("build", "images/tiny", "--prefix", small.prefix, "--json", expect=0, **SECRETS)
    (key,) = small.recorded_keys()
    record = small.record(key)
    assert found(bytes_of(record.image_id)) == []
    with docker_client() as client:
        image = client.images.get(record.image_id)
    assert image.labels["org.opencontainers.image.source"] == "https://git.invalid/lab/project.git"
    written = b"".join(path.read_bytes() for path in small.home.rglob("*") if path.is_file())
    assert key.encode() in written
    assert found(written) == []
    assert found((result.stdout + result.stderr).encode()) == []


def test_a_secret_that_a_step_is_given_is_nowhere_afterwards(
    small: ImageCheckout, small_base: str, tmp_path: Path
) -> None:
    client, log = find_client(), tmp_path / "build.log"
    assert client is not None
    (tmp_path / "context").mkdir()
    dockerfile = tmp_path / "context/Dockerfile"
    step = "text = open('/run/secrets/token').read(); open('/tiny_program', 'w').write(str(len(text)))"
    dockerfile.write_text(
        f"FROM {small_base}\nLABEL test.tunewright.token={small.token}\n"
        f'RUN --mount=type=secret,id=token ["python3.11", "-c", "{step}"]\n'
    )
    (tmp_path / "token").write_text(SECRETS["HF_TOKEN"])
    log.write_text("")
    request = BuildRequest(tmp_path / "context", dockerfile, {}, {}, secrets=[f"id=token,src={tmp_path / 'token'}"])
    image_id = build_image(client, request, log)
    with docker_client() as docker:
        read = docker.containers.run(image_id, ["python3.11", "-c", "print(open('/tiny_program').read())"], remove=True)
    assert int(read) == len(SECRETS["HF_TOKEN"]), "the step did not get the secret"
    assert found(bytes_of(image_id)) == []
    assert found(log.read_bytes()) == []
