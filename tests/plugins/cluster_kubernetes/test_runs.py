"""Jobs on the stand-in: how they end, who is to blame, retries of all nodes, and what is asked of the server."""

from __future__ import annotations

import pytest
from servers.docker_engine import BASE_IMAGE

from plugins.cluster_kubernetes.kubernetes_jobs import SLEEP, Jobs, eventually
from tunewright.clusters.kubernetes.rendering import KUEUE_LABEL
from tunewright.contracts.errors import SubmissionRefused, Unavailable
from tunewright.contracts.status import CauseKind, JobState

pytestmark = pytest.mark.timeout(180)

SLEEPS_AT_FIRST = """
import os, time
attempt = os.environ["TUNEWRIGHT_ATTEMPT"]
print("attempt", attempt, flush=True)
time.sleep(600 if attempt == "0" else 0)
"""
# Node 1 looks into the other's log, so that slow machines do not matter.
SEES_NODE_0 = """
import os, sys, time
def wait_for_node_0():
    while not os.path.exists("logs/replica-0.log") or b"attempt 0" not in open("logs/replica-0.log", "rb").read():
        time.sleep(0.05)
"""
FAILS_AT_FIRST = f"""
{SEES_NODE_0}
attempt, rank = os.environ["TUNEWRIGHT_ATTEMPT"], os.environ["TUNEWRIGHT_NODE_RANK"]
print("attempt", attempt, flush=True)
if attempt == "0" and rank == "0":
    time.sleep(600)
elif attempt == "0":
    wait_for_node_0()
    sys.exit(9)
"""


def test_a_run_of_two_nodes_starts_all_of_them_again_when_one_has_failed(jobs: Jobs) -> None:
    handle = jobs.run(FAILS_AT_FIRST, nodes=2, max_retries=1)
    ended = jobs.wait(handle)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1)
    assert [jobs.log(handle, rank) for rank in range(2)] == [b"attempt 0\nattempt 1\n"] * 2


def test_the_node_that_failed_is_named_and_not_who_followed(jobs: Jobs) -> None:
    script = "import os, sys, time; sys.exit(7) if os.environ['TUNEWRIGHT_NODE_RANK'] == '1' else time.sleep(600)"
    ended = jobs.wait(jobs.run(script, nodes=2))
    assert (ended.state, ended.cause, ended.exit_code) == (JobState.FAILED, CauseKind.EXIT, 7)
    assert ended.message == "node 1: ended with exit code 7"


def test_what_the_next_attempt_would_end_with_too_is_not_tried_again(jobs: Jobs) -> None:
    handle = jobs.run("print('ran', flush=True); raise SystemExit(78)", max_retries=3)
    ended = jobs.wait(handle)
    assert (ended.state, ended.exit_code, ended.attempt) == (JobState.FAILED, 78, 0)
    assert jobs.log(handle) == b"ran\n"


def test_out_of_memory_is_the_cause_and_137_the_exit_code(jobs: Jobs) -> None:
    handle = jobs.submit(jobs.job("x = b'x' * (1 << 30)"), memory_gib=0.125)
    ended = jobs.wait(handle)
    assert (ended.state, ended.cause, ended.shell_exit_code) == (JobState.FAILED, CauseKind.OUT_OF_MEMORY, 137)
    assert "memory" in ended.message


def test_an_evicted_job_is_told_so(jobs: Jobs) -> None:
    handle = jobs.run(SLEEP)
    jobs.wait_for(handle, b"up")
    jobs.server.evict(jobs.pods(handle)[0])
    ended = jobs.wait(handle)
    assert (ended.state, ended.cause) == (JobState.FAILED, CauseKind.EVICTED)
    assert "low on resource: memory" in ended.message
    assert jobs.log(handle) == b"up\n"


@pytest.mark.parametrize(("disruptions", "max_retries"), [("count", 1), ("ignore", 0)])
def test_a_preempted_job_is_warned_and_starts_again(jobs: Jobs, disruptions: str, max_retries: int) -> None:
    script = SLEEPS_AT_FIRST.replace(
        "import os, time\n",
        "import os, signal, sys, time\nsignal.signal(15, lambda *_: (print('warned', flush=True), sys.exit(75)))\n",
    )
    handle = jobs.submit(jobs.job(script, max_retries=max_retries), disruptions=disruptions)
    jobs.wait_for(handle, b"attempt 0")
    jobs.server.preempt(jobs.pods(handle)[0])
    ended = jobs.wait(handle)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1), ended
    assert jobs.log(handle) == b"attempt 0\nwarned\nattempt 1\n"


def test_a_preemption_without_retries_is_the_cause(jobs: Jobs) -> None:
    handle = jobs.run(SLEEP)
    jobs.wait_for(handle, b"up")
    jobs.server.preempt(jobs.pods(handle)[0])
    ended = jobs.wait(handle)
    assert (ended.state, ended.cause, ended.shell_exit_code) == (JobState.FAILED, CauseKind.PREEMPTED, 75)


def test_a_lost_machine_ends_the_job_on_the_others_and_is_the_cause(jobs: Jobs) -> None:
    handle = jobs.submit(jobs.job(SLEEP, nodes=2), node_selector={"disk": "fast"})
    for rank in range(2):
        jobs.wait_for(handle, b"up", rank)
    try:
        jobs.server.lose_node("node-a")
        eventually(lambda: jobs.status(handle).state is JobState.UNKNOWN)
        assert "node-a" in jobs.status(handle).message
        jobs.server.remove_node("node-a")
        ended = jobs.wait(handle)
    finally:
        jobs.server.kubelets.lost.clear()
    assert (ended.state, ended.cause, ended.shell_exit_code) == (JobState.FAILED, CauseKind.NODE_LOST, 75)


def test_a_stopped_job_is_told_its_end_and_its_objects_say_who_asked(jobs: Jobs) -> None:
    handle = jobs.run("import signal, time; signal.signal(15, lambda *_: print('bye', flush=True)); " + SLEEP, nodes=2)
    for rank in range(2):
        jobs.wait_for(handle, b"up", rank)
    jobs.cluster.stop(handle)
    ended = jobs.wait(handle)
    assert (ended.state, ended.cause) == (JobState.STOPPED, CauseKind.STOPPED)
    assert b"bye" in jobs.log(handle)
    job = jobs.server.store.get("jobs", "default", jobs.name(handle))
    assert "tunewright.ai/stop-asked-at" in job["metadata"]["annotations"]
    assert jobs.server.store.get("services", "default", jobs.name(handle))["spec"]["clusterIP"] == "None"
    jobs.server.store.delete("jobs", "default", jobs.name(handle))
    eventually(
        lambda: (
            not [one for one in jobs.server.store.list("services", "") if one["metadata"]["name"] == jobs.name(handle)]
        )
    )
    assert jobs.status(handle).state is JobState.NOT_FOUND


def test_a_job_in_a_queue_waits_and_leaves_its_queue_when_it_is_stopped(jobs: Jobs) -> None:
    handle = jobs.submit(jobs.job(SLEEP), kueue_queue="research")
    eventually(lambda: jobs.status(handle).message)
    assert jobs.status(handle).state is JobState.QUEUED
    jobs.cluster.stop(handle)
    assert jobs.wait(handle).state is JobState.STOPPED
    labels = jobs.server.store.get("jobs", "default", jobs.name(handle))["metadata"]["labels"]
    assert KUEUE_LABEL not in labels


def test_what_waits_says_why(jobs: Jobs) -> None:
    greedy = jobs.submit(jobs.job(SLEEP), gpus=8)
    missing = jobs.submit(jobs.job(SLEEP), image="no/such:image")
    eventually(lambda: "nvidia.com/gpu" in jobs.status(greedy).message)
    assert jobs.status(greedy).state is JobState.QUEUED
    ended = jobs.wait(missing)
    assert (ended.state, ended.cause) == (JobState.FAILED, CauseKind.IMAGE_MISSING)
    jobs.cluster.stop(missing)
    eventually(lambda: jobs.status(missing).state is JobState.STOPPED)


def test_status_of_many_jobs_takes_two_calls(jobs: Jobs) -> None:
    handle = jobs.run("pass")
    others = [handle.model_copy(update={"data": handle.data.replace(jobs.name(handle), f"tw-{n}")}) for n in range(200)]
    jobs.wait(handle)
    jobs.server.calls.clear()
    told = jobs.cluster.status([handle, *others])
    assert told[handle].state is JobState.SUCCEEDED
    assert {told[other].state for other in others} == {JobState.NOT_FOUND}
    assert dict(jobs.server.calls) == {("list", "jobs"): 1, ("list", "pods"): 1}


def test_without_its_storage_logs_come_from_kubernetes(jobs: Jobs) -> None:
    script = SLEEPS_AT_FIRST.replace("time.sleep(600 if", "print(bytes([255])); time.sleep(1); raise SystemExit(3 if")
    job = jobs.job(script.replace(" else 0)", " else 0)"), max_retries=1)
    handle = jobs.submit(job)
    pieces = jobs.cluster.logs(handle, follow=True)
    first = next(pieces)
    assert not jobs.status(handle).state.is_terminal
    followed = first + b"".join(pieces)
    jobs.wait(handle)
    whole = jobs.log(handle)
    elsewhere = handle.model_copy(update={"data": handle.data.replace(job.run_dir, "/nowhere")})
    assert whole == followed == jobs.log(elsewhere)
    assert whole.count(b"attempt") == 2
    assert jobs.log(elsewhere, since=8) == whole[8:]
    assert b"".join(jobs.cluster.logs(elsewhere, follow=True)) == whole


def test_following_without_its_storage_ends_with_the_job(jobs: Jobs) -> None:
    job = jobs.job("import time; print('first', flush=True); time.sleep(2); print('last', end='')")
    handle = jobs.submit(job)
    elsewhere = handle.model_copy(update={"data": handle.data.replace(job.run_dir, "/nowhere")})
    assert b"".join(jobs.cluster.logs(elsewhere, follow=True)) == b"first\nlast"
    assert jobs.status(handle).state is JobState.SUCCEEDED


@pytest.mark.parametrize("render", ["jobset", "trainjob"])
def test_other_renderings_are_sent_found_and_stopped(jobs: Jobs, render: str) -> None:
    """Their operators are not here: the objects are kept, and their conditions are written as an operator would."""
    job = jobs.job(SLEEP)
    handle = jobs.submit(job, render=render)
    assert jobs.submit(job, render=render) == handle
    assert jobs.status(handle).state is JobState.QUEUED
    jobs.cluster.stop(handle)
    assert jobs.status(handle).state is JobState.STOPPED
    done = jobs.submit(jobs.job(SLEEP), render=render)
    condition = {"type": "Completed" if render == "jobset" else "Complete", "status": "True"}
    moment = {"lastTransitionTime": "2026-11-21T10:00:00Z"}
    change = {"conditions": [{**condition, **moment}]}
    jobs.server.store.change(f"{render}s", "default", jobs.name(done), lambda one: one["status"].update(change))
    assert (jobs.status(done).state, jobs.status(done).ended_at) == (JobState.SUCCEEDED, "2026-11-21T10:00:00Z")


def test_what_the_server_does_not_want_is_refused_in_its_words(jobs: Jobs) -> None:
    with pytest.raises(SubmissionRefused, match="namespaces"):
        jobs.submit(jobs.job(SLEEP), namespace="elsewhere")
    with pytest.raises(SubmissionRefused, match="Too long"):
        jobs.submit(jobs.job(SLEEP), annotations={"note": "x" * (256 << 10)})
    jobs.server.forbidden.add(("create", "jobs"))
    try:
        with pytest.raises(SubmissionRefused, match="forbidden"):
            jobs.submit(jobs.job(SLEEP))
    finally:
        jobs.server.forbidden.clear()


def test_a_secret_that_we_may_not_look_at_is_left_to_kubernetes(jobs: Jobs) -> None:
    jobs.server.put_secret("hub", {"token": "abc"})
    jobs.server.forbidden.add(("get", "secrets"))
    try:
        handle = jobs.run("import os; print(os.environ['TOKEN'][::-1])", secrets={"TOKEN": "hub/token"})
        missing = jobs.run(SLEEP, secrets={"TOKEN": "no-such/token"})
    finally:
        jobs.server.forbidden.clear()
    eventually(lambda: "no-such" in jobs.status(missing).message)
    assert jobs.status(missing).state is JobState.STARTING
    jobs.wait(handle)
    assert jobs.log(handle) == b"cba\n"


def test_a_server_that_cannot_be_asked_is_unavailable_in_words(jobs: Jobs) -> None:
    handle = jobs.run("pass")
    jobs.wait(handle)
    text = jobs.kubeconfig.read_text()
    nobody = jobs.home / "nobody"
    nobody.write_text(text.replace(jobs.server.token, "wrong"))
    stranger = handle.model_copy(update={"data": handle.data.replace(str(jobs.kubeconfig), str(nobody))})
    assert jobs.status(stranger).state is JobState.UNKNOWN
    assert "401" in jobs.status(stranger).message
    with pytest.raises(Unavailable, match="401"):
        jobs.submit(jobs.job(SLEEP), kubeconfig=str(nobody))
    with pytest.raises(Unavailable, match="no Kubernetes cluster is configured"):
        jobs.submit(jobs.job(SLEEP), kubeconfig=str(jobs.home / "missing"))


def test_mounts_scratch_and_files_of_secrets_are_there(jobs: Jobs) -> None:
    jobs.server.put_secret("files", {"a": "1"})
    script = """
import os
open("/scratch/x", "w").write("y"); open("/claim/sub", "w").write("z")
print(open("/files/a").read(), os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize >> 20)
"""
    mounts = (f"{jobs.home}:{jobs.home}", "scratch:1:/scratch", "secret:files:/files", "claim:data/part:/claim")
    handle = jobs.submit(jobs.job(script), mounts=mounts, shm_gib=0.0625)
    assert jobs.wait(handle).state is JobState.SUCCEEDED
    assert jobs.log(handle) == b"1 64\n"
    assert (jobs.server.directory / "claims" / "data" / "part" / "sub").read_text() == "z"


def test_an_ended_job_is_removed_after_its_time(jobs: Jobs) -> None:
    handle = jobs.submit(jobs.job("pass"), keep_seconds=1, image=BASE_IMAGE)
    eventually(lambda: jobs.status(handle).state is JobState.SUCCEEDED)
    eventually(lambda: jobs.status(handle).state is JobState.NOT_FOUND)


def test_a_node_that_has_ended_well_starts_again_when_a_later_one_fails(jobs: Jobs) -> None:
    script = f"""
{SEES_NODE_0}
attempt, rank = os.environ["TUNEWRIGHT_ATTEMPT"], os.environ["TUNEWRIGHT_NODE_RANK"]
print("attempt", attempt, flush=True)
if (attempt, rank) == ("0", "1"):
    wait_for_node_0()
    time.sleep(1)  # node 0 has nothing left to do
    sys.exit(9)
"""
    handle = jobs.run(script, nodes=2, max_retries=1)
    assert jobs.wait(handle).state is JobState.SUCCEEDED
    assert [jobs.log(handle, rank) for rank in range(2)] == [b"attempt 0\nattempt 1\n"] * 2
