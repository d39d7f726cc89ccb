"""Secrets: they arrive byte for byte, and are in no place that others look at."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from plugins.cluster_docker.docker_jobs import (
    all_command_lines,
    containers_of,
    document,
    eventually,
    kill_container,
    kill_supervisor,
    log,
    make_job,
    make_plan,
    submit,
    wait,
    wait_for_line,
)
from tunewright.clusters.docker.start_program import WITH_SECRETS
from tunewright.clusters.docker.supervision.containers import secrets_text
from tunewright.contracts.status import JobState

VALUE = "hidden-4f1c-'$x\"\n é"
REVERSED_TWICE = """
import os, sys, time
attempt = int(os.environ["TUNEWRIGHT_ATTEMPT"])
print(attempt, ascii(os.environ["TOKEN"][::-1]), sys.stdin.read() == "", flush=True)
time.sleep(0 if attempt == 0 else 600)
sys.exit(1)
"""


def forms(value: str) -> list[bytes]:
    """How it would look: as it is, in JSON, in base64, in the octal of the start program."""
    octal = "".join(f"\\{byte:03o}" for byte in value.encode())
    return [
        value.encode(), json.dumps(value)[1:-1].encode(), base64.b64encode(value.encode()), octal.encode(), b"4f1c",
    ]  # fmt: skip


def test_a_secret_survives_a_retry_and_is_in_no_place_that_others_look_at(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SECRET", VALUE)
    job = make_job(home, REVERSED_TWICE, secrets={"TOKEN": "MY_SECRET"}, max_retries=1)
    handle = submit(job)
    eventually(lambda: log(handle).count(b"\n") == 2)
    assert log(handle).decode().splitlines() == [f"{attempt} {VALUE[::-1]!a} True" for attempt in (0, 1)]
    (container,) = containers_of(handle)
    top = json.dumps(container.top(ps_args="-eo pid,args"))
    files = [path.read_bytes() for path in home.rglob("*") if path.is_file()]
    places = [
        make_plan(job).model_dump_json().encode(), json.dumps(container.attrs).encode(), top.encode(),
        container.logs(), all_command_lines(), handle.model_dump_json().encode(), *files,
        Path(f"/proc/{document(handle)['supervisor']}/environ").read_bytes(),
    ]  # fmt: skip
    assert not [form for form in forms(VALUE) for place in places if form in place]
    _, changes = container.exec_run(["python3.11", "-c", "import os; print(sorted(os.environ))"])
    assert b"TOKEN" not in changes  # `docker exec` does not get it either


def test_without_its_supervisor_a_secret_is_found_again_for_a_retry(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SECRET", "one")
    script = """
import os, time
print(os.environ["TUNEWRIGHT_ATTEMPT"], os.environ["TOKEN"], flush=True)
time.sleep(600 if os.environ["TUNEWRIGHT_ATTEMPT"] == "0" else 0)
"""
    handle = submit(make_job(home, script, secrets={"TOKEN": "MY_SECRET"}, max_retries=1))
    wait_for_line(handle)
    kill_supervisor(handle)
    kill_container(handle)
    assert wait(handle).state is JobState.SUCCEEDED
    assert log(handle) == b"0 one\n1 one\n"


def test_where_nobody_knows_the_secret_any_more_there_is_no_retry_and_a_word_of_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SECRET", "one")
    handle = submit(
        make_job(home, "import time; print('up', flush=True); time.sleep(600)", secrets={"TOKEN": "MY_SECRET"},
                 max_retries=5)
    )  # fmt: skip
    wait_for_line(handle)
    monkeypatch.delenv("MY_SECRET")
    kill_supervisor(handle)
    kill_container(handle)
    ended = wait(handle)
    assert ended.state is JobState.FAILED
    assert "secrets" in ended.message
    assert log(handle) == b"up\n"


SHELLS = (["/bin/sh"], ["dash"], ["bash", "--posix"], ["busybox", "sh"])
SHELLS_HERE = [shell for shell in SHELLS if shutil.which(shell[0])]


@pytest.mark.parametrize("shell", SHELLS_HERE, ids=" ".join)
def test_the_start_program_gives_every_byte_of_every_secret(tmp_path: Path, shell: list[str]) -> None:
    secrets = {
        "ALL": os.fsdecode(bytes(range(1, 256))), "EMPTY": "", "LINES": "\n\na\n\n", "PERCENT": "%s %d \\n", "X": "x",
    }  # fmt: skip
    script = "import json, os; print(json.dumps({k: os.environ.get(k) for k in " + repr(list(secrets)) + "}))"
    output = tmp_path / "log"
    done = subprocess.run(
        [*shell, "-c", WITH_SECRETS, str(output), sys.executable, "-I", "-X", "utf8", "-c", script],
        input=secrets_text(secrets), capture_output=True, check=True, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert json.loads(output.read_text()) == secrets
    assert done.stdout == f"this job writes to {output}\n".encode()


def test_secrets_that_were_cut_short_start_nothing(tmp_path: Path) -> None:
    output = tmp_path / "log"
    for text in (b"", b"TOKEN\n", secrets_text({"TOKEN": "abc"})[:-3]):
        done = subprocess.run(
            ["/bin/sh", "-c", WITH_SECRETS, str(output), "true"], input=text, capture_output=True, check=False
        )
        assert done.returncode == 127
        assert b"did not arrive" in done.stderr
    assert not output.exists()
