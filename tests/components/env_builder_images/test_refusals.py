"""What can go wrong while an image is built: one clear message, its exit code, nothing named that is not whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from servers.docker_engine import need_docker

from components.env_builder_images.image_checkout import (
    PROGRAM,
    ImageCheckout,
    docker_client,
    image_checkout,
    images_of,
)
from tunewright.contracts.environments import EnvironmentRequest
from tunewright.contracts.errors import EnvironmentBuildFailed, InvalidExperiment, NotFound, Unavailable
from tunewright.contracts.experiment import EnvironmentSpec
from tunewright.env_builder.images import buildkit
from tunewright.env_builder.images import registry as product
from tunewright.env_builder.images.build import ensure_image
from tunewright.env_builder.images.options import ImageOptions

_DIGEST = "sha256:" + "0" * 64


def wait_for(what: Callable[[], object], seconds: float = 50) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def run_last(checkout: ImageCheckout, script: str) -> None:
    """Commit an image whose build ends with this step, which no earlier build has done."""
    path = "images/tiny/Dockerfile"
    text = (checkout.root / path).read_text()
    step = f"RUN {json.dumps(['python3.11', '-c', f'{script}  # {checkout.token}'])}\nUSER 10001"
    checkout.commit(path, text.replace("USER 10001", step))


def starting(checkout: ImageCheckout) -> subprocess.Popen[str]:
    return checkout.start("build", "images/tiny", "--prefix", checkout.prefix, "--json")


def log_of(checkout: ImageCheckout) -> str:
    return "".join(path.read_text() for path in checkout.home.glob("environments/*.log"))


def assert_nothing_is_left(checkout: ImageCheckout) -> None:
    assert images_of(checkout, named_only=True) == []
    assert checkout.recorded_keys() == []
    assert list(checkout.root.glob("dist/*")) == list(checkout.root.glob("dist/.*")) == []


@pytest.mark.parametrize("command", [("build", "images/tiny"), ("push", "0123456"), ("verify", "tiny:0")])
def test_without_a_daemon_it_is_said_where_one_was_looked_for(
    checkout: ImageCheckout, command: tuple[str, ...]
) -> None:
    expect = 66 if command[0] == "push" else 69  # nothing was built here that could be pushed: no daemon is asked
    said = checkout.call(*command, expect=expect, DOCKER_HOST="unix:///nonexistent/socket").stderr
    assert expect == 66 or "no Docker daemon answers at unix:///nonexistent/socket" in said
    assert checkout.recorded_keys() == []


def test_check_tells_that_no_daemon_is_there(checkout: ImageCheckout) -> None:
    said = checkout.call("check", "images/tiny", "--json", expect=77, DOCKER_HOST="unix:///nonexistent/socket").stdout
    (finding,) = [one for one in json.loads(said)["findings"] if one["severity"] == "error"]
    assert finding["code"] == "docker-daemon-unreachable"


def test_a_base_that_is_not_here_and_has_no_digest_is_refused(checkout: ImageCheckout) -> None:
    said = checkout.call("build", "images/tiny", "--base-image", "tw-test/absent:1", expect=78).stderr
    assert "`tw-test/absent:1` is not here, and without a digest it is not pulled" in said
    assert_nothing_is_left(checkout)


def test_a_base_that_no_registry_gives_is_named(checkout: ImageCheckout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product, "FIRST_PAUSE_SECONDS", 0.01)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        checkout.ensure(base_image=f"127.0.0.1:1/absent@{_DIGEST}")
    assert_nothing_is_left(checkout)


def test_a_base_that_should_be_here_and_is_not_is_said_in_our_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_docker()
    monkeypatch.setattr(buildkit, "_FIRST_PAUSE_SECONDS", 0.01)
    with image_checkout(tmp_path, base="127.0.0.1:1/absent:1") as checkout:
        with pytest.raises(
            EnvironmentBuildFailed, match=r"the base image 127\.0\.0\.1:1/absent:1 is not here"
        ) as caught:
            checkout.ensure()
        assert "images/base" in caught.value.hint
        assert_nothing_is_left(checkout)


def test_an_image_of_others_needs_a_digest(checkout: ImageCheckout) -> None:
    with pytest.raises(InvalidExperiment, match=r"environment\.image"):
        checkout.ensure("registry.example/lab/trainer:latest")
    reference = f"registry.example/lab/trainer@{_DIGEST}"
    provided = checkout.ensure(reference)
    assert (provided.built, provided.reference.reference, provided.reference.sha256) == (False, reference, "0" * 64)


def test_an_unknown_image_lists_what_there_is(checkout: ImageCheckout) -> None:
    said = checkout.call("build", "images/tyni", expect=66).stderr
    assert "images/tyni" in said
    assert "there are: images/tiny" in said


def test_a_client_without_buildkit_is_told_in_words(
    checkout: ImageCheckout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = shutil.which("git")
    assert git is not None
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs/git").symlink_to(git)
    docker = tmp_path / "programs/docker"
    docker.write_text('#!/bin/sh\n[ "$1" = version ] && echo 28.2.2 || exit 1\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    with pytest.raises(EnvironmentBuildFailed, match="BuildKit"):
        checkout.ensure()
    assert_nothing_is_left(checkout)


def test_a_step_that_fails_shows_the_end_of_its_log(checkout: ImageCheckout) -> None:
    run_last(checkout, "raise SystemExit('the flux capacitor is missing')")
    result = checkout.call("build", "images/tiny", "--prefix", checkout.prefix, expect=69)
    assert "the flux capacitor is missing" in result.stderr
    assert "`docker build` ended with 1" in result.stderr
    assert result.stdout == ""
    assert_nothing_is_left(checkout)


def test_a_step_has_no_network(checkout: ImageCheckout) -> None:
    run_last(checkout, "import socket; raise SystemExit(f'sees {sorted(n for _, n in socket.if_nameindex())}')")
    with pytest.raises(EnvironmentBuildFailed, match=r"sees \['lo'\]"):
        checkout.ensure()


def test_a_file_that_the_dockerfile_copies_and_nobody_has_is_named(checkout: ImageCheckout) -> None:
    checkout.git("rm", "--quiet", "3rdparty/tiny.lock")
    checkout.git("commit", "--quiet", "-m", "no lock")
    with pytest.raises(EnvironmentBuildFailed, match=r"copies 3rdparty/tiny\.lock, which is not there"):
        checkout.ensure()
    assert_nothing_is_left(checkout)


def test_a_build_killed_in_the_middle_leaves_nothing_that_looks_whole_and_the_next_builds(
    checkout: ImageCheckout,
) -> None:
    run_last(checkout, "import time; print('half', 'way', flush=True); time.sleep(2)")
    process = starting(checkout)
    wait_for(lambda: "half way" in log_of(checkout))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=50)
    assert images_of(checkout, named_only=True) == []
    # The client program goes on alone: its image, which nobody has started yet, has no name.
    wait_for(lambda: images_of(checkout))
    assert checkout.recorded_keys() == []
    assert images_of(checkout, named_only=True) == []
    provided = checkout.ensure()
    assert provided.built
    assert checkout.recorded_keys() == [provided.reference.key]
    assert list(checkout.root.glob("dist/.*")) == []


def test_a_build_interrupted_by_the_user_ends_what_it_started(checkout: ImageCheckout) -> None:
    run_last(checkout, "import time; print('half', 'way', flush=True); time.sleep(20)")
    process = starting(checkout)
    wait_for(lambda: "half way" in log_of(checkout))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=50)
    assert process.returncode == 130, err
    assert images_of(checkout) == []
    assert_nothing_is_left(checkout)


def test_two_builders_build_once(checkout: ImageCheckout) -> None:
    hold = checkout.hold_next()
    processes = [starting(checkout), starting(checkout)]
    wait_for(checkout.pants_calls)
    hold.unlink()
    answers = [process.communicate(timeout=50) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    documents = [json.loads(out) for out, _ in answers]
    assert sorted(document.pop("built") for document in documents) == [False, True]
    assert documents[0] == documents[1]
    assert len(checkout.pants_calls()) == 1


def test_an_edit_while_it_is_built_is_found(checkout: ImageCheckout) -> None:
    hold = checkout.hold_next()
    process = starting(checkout)
    wait_for(checkout.pants_calls)
    checkout.write(PROGRAM, "edited too late")
    hold.unlink()
    _, err = process.communicate(timeout=50)
    assert process.returncode == 69, err
    assert PROGRAM in err
    assert_nothing_is_left(checkout)


def test_a_commit_that_is_not_checked_out_is_refused(checkout: ImageCheckout) -> None:
    request = checkout.image_request()
    checkout.edit_program("later")
    with pytest.raises(EnvironmentBuildFailed, match=PROGRAM):
        ensure_image(request, ImageOptions(prefix=checkout.prefix))
    assert checkout.pants_calls() == []


def test_an_image_deleted_under_its_record_is_told_by_verify_save_and_push(
    checkout: ImageCheckout, tmp_path: Path
) -> None:
    reference = checkout.ensure().reference
    with docker_client() as client:
        client.api.remove_image(reference.reference, force=True)
    for command in (("verify",), ("save", "-o", str(tmp_path / "a")), ("push", "--registry", "127.0.0.1:1")):
        said = checkout.call(command[0], reference.key, *command[1:], expect=66).stderr
        assert "not here any more" in said or "Docker has it no more" in said
    assert not (tmp_path / "a").exists()


def test_a_temporary_directory_that_is_not_there_is_refused(checkout: ImageCheckout, tmp_path: Path) -> None:
    arguments = ("--prefix", checkout.prefix, "--tmpdir", str(tmp_path / "absent"))
    assert "tmpdir-not-writable" in checkout.call("build", "images/tiny", *arguments, expect=77).stderr


def test_a_target_that_is_gone_is_not_found(checkout: ImageCheckout) -> None:
    request = EnvironmentRequest(
        spec=EnvironmentSpec(kind="image", image="images/gone"),
        project_root=str(checkout.root),
        home=str(checkout.home),
        code=checkout.image_request().code,
    )
    with pytest.raises((NotFound, InvalidExperiment), match="images/gone"):
        ensure_image(request, ImageOptions())
    assert os.listdir(checkout.seen) == []
