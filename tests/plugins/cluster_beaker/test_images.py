"""The environment's image on its way to Beaker: sent once, by its digest, with its commit, also after a cut."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.beaker_emulator import beaker_client, beaker_emulator
from servers.docker_engine import need_docker
from servers.registry import Registry, running_registry

from plugins.cluster_beaker.beaker_jobs import USER, WORKSPACE, script, submit, wait
from tunewright.beaker_emulator.starting import RunningEmulator
from tunewright.contracts.environments import EnvironmentRef
from tunewright.contracts.errors import SubmissionRefused, Unavailable
from tunewright.contracts.jobs import JobSpec
from tunewright.contracts.status import JobState

pytestmark = pytest.mark.timeout(180)
COMMIT = "c" * 40


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Where the emulator has images sent to."""
    need_docker()
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def beaker(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEmulator]:
    """An emulator with a registry, of its own."""
    options = ("--registry", registry.address, "--grace", "1")
    with beaker_emulator(tmp_path_factory.mktemp("beaker-with-registry"), options=options) as running:
        yield running


@pytest.fixture
def image(tmp_path: Path) -> Iterator[str]:
    """The id of a small image that only this machine has, another one for each test."""
    import docker

    need_docker()
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        entry = tarfile.TarInfo("content")
        entry.size = len(str(tmp_path))
        archive.addfile(entry, io.BytesIO(str(tmp_path).encode()))
    client = docker.from_env()
    name = f"tunewright-test/beaker:{abs(hash(tmp_path))}"
    repository, _, tag = name.partition(":")
    client.api.import_image_from_data(data.getvalue(), repository=repository, tag=tag)
    try:
        yield str(client.images.get(name).id)
    finally:
        client.images.remove(name, force=True)
        client.close()


def image_job(home: Path, reference: str, name: str = "one") -> JobSpec:
    environment = EnvironmentRef(kind="image", key="f" * 64, reference=reference, command=("x",), commit=COMMIT)
    return script(home, "pass", environment=environment, run_dir=str(home / "runs" / name))


def test_an_image_is_sent_once_with_its_digest_and_commit(
    beaker: RunningEmulator, registry: Registry, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = submit(tmp_path, image_job(tmp_path, image), image=None)
    assert wait(first).state is JobState.SUCCEEDED
    name = f"{USER}/tunewright-{image.removeprefix('sha256:')[:20]}"
    with beaker_client(beaker) as client:
        sent = client.image.get(name)
        assert sent.HasField("committed")
        assert sent.description == f"Tunewright environment {image}, commit {COMMIT}"
        spec = client.experiment.get_spec(client.workload.get(first.native_id))
        assert spec.tasks[0].image.beaker == name
    assert f"{sent.id.lower()}" in registry.catalog()

    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such/docker.sock")  # what is there needs no daemon
    second = submit(tmp_path, image_job(tmp_path, image, "two"), image=None)
    assert wait(second).state is JobState.SUCCEEDED


def test_a_sending_that_was_cut_short_is_finished_by_the_next_submission(
    beaker: RunningEmulator, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"tunewright-{image.removeprefix('sha256:')[:20]}"
    with beaker_client(beaker) as client:
        data = {
            "workspace": client.workspace.get(WORKSPACE).id, "imageId": image, "imageTag": image, "description": "cut",
        }  # fmt: skip
        made = client.image.http_request("images", method="POST", query={"name": name}, data=data).json()
    assert wait(submit(tmp_path, image_job(tmp_path, image), image=None)).state is JobState.SUCCEEDED
    with beaker_client(beaker) as client:
        finished = client.image.get(f"{USER}/{name}")
    assert finished.HasField("committed")
    assert finished.id == made["id"]


def test_an_image_that_is_not_on_this_machine_is_refused(beaker: RunningEmulator, tmp_path: Path) -> None:
    need_docker()
    with pytest.raises(SubmissionRefused, match="no image `sha256:0000"):
        submit(tmp_path, image_job(tmp_path, "sha256:" + "0" * 64), image=None)


def test_a_daemon_that_is_not_there_is_told(
    beaker: RunningEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such/docker.sock")
    with pytest.raises(Unavailable, match="the Docker daemon that has the image does not answer"):
        submit(tmp_path, image_job(tmp_path, "sha256:" + "1" * 64), image=None)
