"""The same Slurm, from a machine that has none of its programs: everything goes over SSH, to a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from servers.login_node import LoginServer, serve_login
from servers.slurm_cluster import SlurmCluster as RunningSlurm

from plugins.cluster_slurm.slurm_jobs import SLEEP, SlurmHome, directory_of, log, status, wait, wait_for_log
from tunewright.clusters.slurm.backend import SlurmCluster
from tunewright.contracts.errors import SubmissionRefused, Unavailable
from tunewright.contracts.status import JobState

pytestmark = pytest.mark.timeout(120)

PYTHON = "/usr/bin/python3"
AWKWARD = ("", 'it\'s "so"', "$$ ${x} $(echo no) `echo no`", "a\nb", "é 🎉", "\x01", "\\", "*")


@pytest.fixture(scope="module")
def login(slurm: RunningSlurm) -> Iterator[LoginServer]:
    """A login node."""
    with serve_login(slurm.variables) as server:
        yield server


@pytest.fixture
def afar(home: SlurmHome, login: LoginServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmHome]:
    """A home whose client has no Slurm of its own."""
    with monkeypatch.context() as context:
        context.delenv("SLURM_CONF")
        yield SlurmHome(
            home.path,
            home.slurm,
            home.handles,
            {"ssh_host": login.host, "ssh_options": login.options, "python": PYTHON},
        )


def test_a_job_is_submitted_followed_and_ended_over_ssh(afar: SlurmHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "it's $ecret")
    script = "import os, sys; print(sys.argv[1:], os.environ['TOKEN']); sys.exit(42)"
    job = afar.job(script, *AWKWARD, secrets={"TOKEN": "MY_TOKEN"})
    first = afar.submit(job)
    followed = b"".join(SlurmCluster().logs(first, follow=True))
    assert followed.decode() == f"{list(AWKWARD)} it's $ecret\n"
    assert wait(first).exit_code == 42
    assert afar.submit(job) == first
    assert not (directory_of(first) / "secrets.json").exists()


def test_a_job_is_stopped_over_ssh(afar: SlurmHome) -> None:
    handle = afar.submit(afar.job(SLEEP))
    wait_for_log(handle, b"up")
    SlurmCluster().stop(handle)
    assert wait(handle).state is JobState.STOPPED


def test_what_slurm_refuses_over_there_is_told_here(afar: SlurmHome) -> None:
    with pytest.raises(SubmissionRefused, match="nvalid partition name specified"):
        afar.submit(afar.job("pass"), partition="no-such")


def test_a_login_node_that_does_not_answer_is_named(home: SlurmHome) -> None:
    with pytest.raises(Unavailable, match=r"ssh 127.0.0.1: .*[Cc]onnection refused"):
        home.submit(home.job("pass"), ssh_host="127.0.0.1", ssh_options=("-p", "1"))


def test_jobs_here_and_over_there_are_asked_for_together(
    home: SlurmHome, login: LoginServer, slurm: RunningSlurm
) -> None:
    here = home.submit(home.job(SLEEP))
    there = home.submit(home.job(SLEEP), ssh_host=login.host, ssh_options=login.options, python=PYTHON)
    for handle in (here, there):
        wait_for_log(handle, b"up")
    assert {one.state for one in SlurmCluster().status([there, here]).values()} == {JobState.RUNNING}
    assert log(there) == b"up\n"
    assert status(there).state is JobState.RUNNING
