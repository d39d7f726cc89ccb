"""The same client and jobs, with Docker running them."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from beaker import Beaker, BeakerTaskResources, BeakerTaskSpec
from servers.beaker_emulator import beaker_client, beaker_emulator
from servers.docker_engine import need_base_image, need_docker
from servers.programs import free_port, need_program
from servers.registry import running_registry

from emulators.beaker.experiments import Code, Status, ended, experiment, jobs_of, lines, run, running_job
from tunewright.beaker_emulator.starting import RunningEmulator

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def image() -> str:
    """Debian with Python."""
    return need_base_image()


@pytest.fixture(scope="module")
def containers(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEmulator]:
    """An emulator that starts containers."""
    with beaker_emulator(tmp_path_factory.mktemp("docker"), runner="docker", options=("--grace", "1")) as running:
        yield running


@pytest.fixture(scope="module")
def client(containers: RunningEmulator) -> Iterator[Beaker]:
    """Connected to that one."""
    with beaker_client(containers) as connected:
        yield connected


def _task(image: str, script: str, **fields: Any) -> BeakerTaskSpec:
    return BeakerTaskSpec.new("main", "ai2/cpus", docker_image=image, command=["sh", "-c", script], **fields)


def test_a_container_has_its_variables_mounts_results_and_exit_code(client: Beaker, image: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from a dataset\n")
    dataset = client.dataset.create("for-containers", tmp_path / "file", strip_paths=True)
    script = "cat /data/file; echo $BEAKER_JOB_ID; echo made > /results/model; cat /etc/os-release | head -1; exit 3"
    job = run(client, experiment(_task(image, script, result_path="/results").with_dataset("/data", beaker=dataset.id)))
    told = lines(client, job)
    assert told[:2] == [b"from a dataset", job.id.encode()] and b"Debian" in told[2]
    assert job.status.exit_code == 3
    results = client.job.get_results(job)
    assert results is not None
    assert b"".join(client.dataset.stream_file(results, "model")) == b"made\n"


def test_a_container_above_its_memory_is_named_as_such(client: Beaker, image: str) -> None:
    script = "exec python3 -c 'held = bytearray(300 << 20)'"
    job = run(client, experiment(_task(image, script, resources=BeakerTaskResources(memory="64MiB"))))
    assert (job.status.exit_code, job.status.message[:9]) == (137, "OOMKilled")


def test_a_container_is_canceled(client: Beaker, image: str) -> None:
    workload = client.experiment.create(spec=experiment(_task(image, "trap 'exit 5' TERM; sleep 300 & wait")))
    running_job(client, workload)
    client.workload.cancel(workload)
    status = jobs_of(client, ended(client, workload))[0].status
    assert (status.exit_code, status.canceled_code) == (5, Code.CANCELATION_CODE_MANUAL)


def test_an_image_that_is_not_there_fails_with_words(client: Beaker) -> None:
    job = run(client, experiment(_task("tunewright/no-such-image:none", "true")))
    assert Status.Name(job.status.status) == "STATUS_FAILED"
    assert "no-such-image" in job.status.message.lower()


def test_a_committed_image_of_beaker_is_the_daemons_own(client: Beaker, image: str) -> None:
    import docker

    with contextlib.closing(docker.from_env()) as daemon:
        body = {"workspace": client.workspace.get().id, "imageId": daemon.images.get(image).id, "imageTag": image}
    made = client.image.http_request("images", method="POST", data=body, query={"name": "local"}).json()
    client.image.commit(client.image.get(made["id"]))
    spec = BeakerTaskSpec.new("main", "ai2/cpus", beaker_image="tester/local", command=["echo", "ran"])
    assert lines(client, run(client, experiment(spec))) == [b"ran"]


def test_an_image_is_pushed_to_the_registry_and_committed(tmp_path: Path) -> None:
    need_docker()
    need_program("docker-registry", "docker-registry")
    import docker

    port = free_port()
    tag = f"tunewright/beaker-push-test:{port}"
    with (
        contextlib.closing(docker.from_env()) as daemon,
        running_registry(tmp_path / "registry", port=port) as registry,
        beaker_emulator(tmp_path / "state", options=("--registry", registry.address)) as running,
        beaker_client(running) as client,
    ):
        daemon.api.import_image_from_data(_an_archive(), repository=tag.partition(":")[0], tag=str(port))
        try:
            made = client.image.create("pushed", tag, description="commit 0123abc")
            assert made.HasField("committed") and made.description == "commit 0123abc"
            assert made.docker_tag.startswith(f"{registry.address}/")
            assert registry.tags(made.id.lower()) == ["latest"]
            daemon.images.remove(made.docker_tag)
        finally:
            daemon.images.remove(tag)


def _an_archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("file"))
    return buffer.getvalue()
