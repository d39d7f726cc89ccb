"""Launching: prepared as a whole, sent once, followed to its end, recorded."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.launcher.project import FAILING, HELD, SLOW, Project
from tunewright.launcher.progress import BarReporter


def test_a_run_leaves_every_file_that_is_promised(project: Project) -> None:
    answer = project.launcher("launch", "count.toml", "--json")
    document = answer.last_document
    assert {key: document[key] for key in ("run", "state", "exit_code")} == {
        "run": "count", "state": "SUCCEEDED", "exit_code": 0,
    }  # fmt: skip
    assert document["run_dir"] == str(project.run())
    assert document["model_dir"] == str(project.run() / "model")
    assert document["record"] == str(project.run() / "provenance.json")
    promised = {
        "experiment.toml", "resolved.json", "preflight.json", "environment.json", "dataset.json", "job.json", "plan",
        "submission.json", "handle.json", "events.jsonl", "logs", "metrics.jsonl", "checkpoints", "model",
        "provenance.json",
    }  # fmt: skip
    assert promised <= {path.name for path in project.run().iterdir()}
    assert (project.run() / "experiment.toml").read_text() == (project.root / "count.toml").read_text()


def test_every_value_of_a_run_says_what_it_should(project: Project) -> None:
    project.launcher("launch", "count.toml")
    resolved, job = project.json("count", "resolved.json"), project.json("count", "job.json")
    assert resolved["cluster"]["options"] == {"gate": "", "colour": "green"}
    assert resolved["training"]["options"]["mode"] == "good"
    assert len(resolved["digest"]) == 64
    assert job["command"][-2:] == ["train", str(project.run() / "job.json")]
    assert job["variables"] == {"COLOUR": "blue", "GREETING": "hello world"}
    assert job["origin"]["code"]["commit"] == project.git("rev-parse", "HEAD").strip()
    assert job["origin"]["plugins"]["stranger"] == "1.0"
    assert project.json("count", "environment.json")["sha256"] == "e" * 64
    assert project.json("count", "dataset.json")["rows"] == 1
    assert project.json("count", "handle.json")["native_id"] == project.json("count", "submission.json")["key"]
    assert project.json("count", "provenance.json")["outcome"]["state"] == "SUCCEEDED"


def test_every_event_and_every_step_is_a_line_of_json(project: Project) -> None:
    lines = [json.loads(line) for line in project.launcher("launch", "count.toml", "--json").out.splitlines()]
    assert [line["step"] for line in lines if line.get("event") == "metrics"] == [1, 2, 3]
    assert [line["state"] for line in lines if line.get("event") == "state"][-1] == "SUCCEEDED"
    assert "event" not in lines[-1]


def test_without_json_the_last_lines_say_where_model_and_record_are(project: Project) -> None:
    answer = project.launcher("launch", "count.toml")
    assert answer.out.splitlines()[-2:] == [
        f"  model:  {project.run() / 'model'}",
        f"  record: {project.run() / 'provenance.json'}",
    ]
    assert (
        answer.err.index(", 1 rows, 2 tokens\n")
        < answer.err.index("environment: pex ")
        < answer.err.index("run count: ")
    )
    assert answer.err.index("step 3/3  loss 1.3333  1,000 tokens/s") < answer.err.index("succeeded\n")


def test_the_runs_own_exit_code_passes_through_and_the_end_of_its_log_is_shown(project: Project) -> None:
    answer = project.launcher("launch", "count.toml", *FAILING, "--json", expect=42)
    document = answer.last_document
    assert (document["state"], document["cause"], document["exit_code"]) == ("FAILED", "exit", 42)
    assert document["model_dir"] is None
    assert "giving up" in answer.err and "--name count" in answer.err and "step-000001" in answer.err
    assert project.json("count", "provenance.json")["outcome"]["exit_code"] == 42


def test_a_signal_ends_the_launcher_with_128_and_its_number(project: Project) -> None:
    project.launcher("launch", "count.toml", *FAILING, "--set", "training.options.mode=killed", expect=137)


def test_nothing_of_the_launchers_environment_reaches_the_job(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PANTS_VERSION", "2.17.1")
    monkeypatch.setenv("PEX", "/some/launcher.pex")
    project.launcher("launch", "count.toml")
    log = project.launcher("logs", "count").out
    assert "PANTS" not in log and "PEX" not in log and "TUNEWRIGHT_HOME" not in log
    assert "'COLOUR', 'GREETING'" in log and "hello world" in log


def test_events_tell_each_change_once(project: Project) -> None:
    project.launcher("launch", "count.toml", *FAILING, expect=42)
    for command in ("status", "events", "wait"):
        project.launcher(command, "count", expect=42 if command == "wait" else 0)
    project.launcher("list")
    events = project.lines("count", "events.jsonl")
    states = [event["state"] for event in events]
    assert states[0] == "PENDING" and states[-1] == "FAILED"
    assert len(states) == len(set(states)) and set(states) <= {"PENDING", "RUNNING", "FAILED"}
    assert all(event["time"].endswith("Z") for event in events)
    assert (events[-1]["cause"], events[-1]["exit_code"]) == ("exit", 42)


def test_listeners_are_told_once(project: Project) -> None:
    project.launcher("launch", "count.toml")
    project.launcher("status", "count")
    key = project.json("count", "submission.json")["key"]
    assert project.heard() == [f"submitted count {key}", "finished count SUCCEEDED"]


def test_a_record_that_the_job_wrote_is_left_alone(project: Project) -> None:
    project.launcher("launch", "count.toml", *SLOW, "--detach")
    record = project.run() / "provenance.json"
    record.write_text("the job's own\n")
    project.launcher("stop", "count")
    assert record.read_text() == "the job's own\n"
    assert project.heard()[-1].startswith("submitted")


def test_runs_are_named_after_the_experiment_and_numbered(project: Project) -> None:
    names = [project.launcher("launch", "count.toml", "--json").last_document["run"] for _ in range(2)]
    names.append(project.launcher("launch", "count.toml", "--name", "mine", "--json").last_document["run"])
    assert names == ["count", "count-2", "mine"]


def test_two_launchers_at_once_get_two_runs(project: Project) -> None:
    launchers = [project.start("launch", "count.toml", "--json") for _ in range(2)]
    names = set()
    for process in launchers:
        out, err = process.communicate(timeout=50)
        assert process.returncode == 0, err
        names.add(json.loads(out.splitlines()[-1])["run"])
    assert names == {"count", "count-2"}
    assert not list((project.home / "runs").glob(".*"))


def test_two_launchers_with_one_name_start_one_job(project: Project) -> None:
    launchers = [project.start("launch", "count.toml", "--name", "one", "--detach") for _ in range(2)]
    codes = sorted(process.wait(timeout=50) for process in launchers)
    for process in launchers:
        process.communicate()
    # The later one follows the first, or finds that it has succeeded already.
    assert codes[0] == 0 and codes[1] in (0, 64)
    assert len(list(project.run("one").glob("yard/*"))) == 1


def test_detach_returns_at_once_and_wait_gives_the_exit_code(project: Project) -> None:
    answer = project.launcher("launch", "count.toml", *FAILING, "--detach")
    assert answer.out == "count\n"
    waited = project.launcher("wait", "count", "--json", expect=42)
    assert waited.last_document["exit_code"] == 42


def test_the_job_outlives_a_killed_launcher_and_is_found_again(project: Project) -> None:
    follower = project.start("launch", "count.toml", *HELD)
    project.wait_for_step(1)
    follower.kill()
    follower.communicate()
    assert project.launcher("status", "count", "--json").document["state"] == "RUNNING"
    project.let_go()
    assert project.launcher("logs", "count", "--follow").out.endswith("no newline at the end")
    project.launcher("wait", "count")
    assert project.json("count", "provenance.json")["outcome"]["state"] == "SUCCEEDED"
    assert project.heard()[-1] == "finished count SUCCEEDED"


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_launcher_that_is_interrupted_leaves_the_job_running(number: str, code: int, project: Project) -> None:
    follower = project.start("launch", "count.toml", *SLOW)
    project.wait_for_step(1)
    follower.send_signal(signal.Signals[number])
    _, err = follower.communicate(timeout=50)
    assert follower.returncode == code, err
    assert "Traceback" not in err
    assert project.launcher("status", "count", "--json").document["state"] == "RUNNING"


def test_a_failed_run_goes_on_from_its_last_checkpoint(project: Project) -> None:
    project.launcher("launch", "count.toml", *FAILING, expect=42)
    first = project.json("count", "submission.json")["key"]
    answer = project.launcher("launch", "count.toml", *FAILING, "--name", "count", "--json")
    assert answer.last_document["state"] == "SUCCEEDED"
    assert "start 1 " in project.launcher("logs", "count").out
    assert project.json("count", "submission.json")["key"] != first
    assert project.json("count", "provenance.json")["outcome"]["state"] == "SUCCEEDED"
    states = [event["state"] for event in project.lines("count", "events.jsonl")]
    assert states.count("PENDING") == 2 and states[-1] == "SUCCEEDED"
    assert [line for line in project.heard() if line.startswith("finished")] == [
        "finished count FAILED", "finished count SUCCEEDED",
    ]  # fmt: skip


def test_a_run_goes_on_in_another_number_of_processes_but_not_as_another_experiment(project: Project) -> None:
    project.launcher("launch", "count.toml", *FAILING, expect=42)
    again = ("launch", "count.toml", *FAILING, "--name", "count")
    answer = project.launcher(*again, "--set", "training.learning_rate=0.5", expect=64)
    assert "its experiment is not the same now" in answer.err
    other = ("--set", "cluster.processes_per_node=2", "--set", "training.log_every_steps=3", "--detach")
    answer = project.launcher(*again, *other)
    assert "run count goes on with other settings than it began with" in answer.err
    job = project.json("count", "job.json")
    assert job["resources"]["processes_per_node"] == 2
    assert job["experiment"]["training"]["log_every_steps"] == 3
    assert project.json("count", "resolved.json")["cluster"]["processes_per_node"] == 2
    project.launcher("wait", "count")
    assert "start 1 " in project.launcher("logs", "count").out
    assert project.json("count", "provenance.json")["cluster"]["resources"]["processes_per_node"] == 2


def test_a_running_run_does_not_change_its_settings(project: Project) -> None:
    project.launcher("launch", "count.toml", *SLOW, "--detach")
    other = ("--set", "cluster.processes_per_node=2")
    answer = project.launcher("launch", "count.toml", *SLOW, *other, "--name", "count", expect=64)
    assert "with other settings than these" in answer.err
    assert "launcher stop count" in answer.err
    assert project.json("count", "job.json")["resources"]["processes_per_node"] == 1


def test_a_running_run_is_followed_not_started_again(project: Project) -> None:
    project.launcher("launch", "count.toml", *HELD, "--detach")
    assert project.follow_held("launch", "count.toml", "--name", "count")["state"] == "SUCCEEDED"
    assert len(list(project.run().glob("yard/*"))) == 1
    assert [line.split()[0] for line in project.heard()] == ["submitted", "finished"]
    assert [event["state"] for event in project.lines("count", "events.jsonl")].count("PENDING") == 1


def test_a_submission_that_was_not_confirmed_is_sent_again_with_the_same_key(project: Project, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    arguments = ("launch", "count.toml", "--set", f"cluster.options.gate={gate}", "--name", "count")
    answer = project.launcher(*arguments, expect=69)
    assert "is shut" in answer.err and "--name count goes on" in answer.err
    key = project.json("count", "submission.json")["key"]
    assert project.launcher("status", "count", "--json").document["state"] == "PENDING"
    gate.unlink()
    project.launcher(*arguments)
    assert project.json("count", "handle.json")["native_id"] == key


def test_a_launcher_that_died_before_the_handle_was_written_finds_its_job(project: Project) -> None:
    project.launcher("launch", "count.toml", *HELD, "--detach")
    (project.run() / "handle.json").unlink()
    assert project.follow_held("launch", "count.toml", "--name", "count")["state"] == "SUCCEEDED"
    assert len(list(project.run().glob("yard/*"))) == 1


def test_a_succeeded_run_or_another_experiment_is_not_gone_on_with(project: Project) -> None:
    project.launcher("launch", "count.toml")
    answer = project.launcher("launch", "count.toml", "--name", "count", expect=64)
    assert "succeeded already" in answer.err
    answer = project.launcher("launch", "count.toml", "--name", "count", "--set", "seed=3", expect=64)
    assert "its experiment is not the same" in answer.err and "--diff count" in answer.err


def test_changed_code_or_data_is_another_run(project: Project) -> None:
    project.launcher("launch", "count.toml", *FAILING, expect=42)
    (project.root / "rows.jsonl").write_text("{}\n{}\n")
    (project.root / "train.py").write_text((project.root / "train.py").read_text() + "# changed\n")
    project.git("commit", "--quiet", "-am", "second")
    answer = project.launcher("launch", "count.toml", *FAILING, "--name", "count", expect=64)
    assert "dataset and environment" in answer.err


def test_a_launch_tells_of_an_earlier_run_that_has_not_succeeded(project: Project) -> None:
    project.launcher("launch", "count.toml", *FAILING, expect=42)
    again = project.launcher("launch", "count.toml", *FAILING, expect=42)
    assert "run count of the same experiment has not succeeded (failed)" in again.err and "--name count " in again.err
    fine = project.launcher("launch", "count.toml")
    assert "has not succeeded" not in fine.err
    assert "has not succeeded" not in project.launcher("launch", "count.toml").err


def test_a_dirty_tree_is_refused_by_name_of_its_files(project: Project) -> None:
    (project.root / "count.toml").write_text((project.root / "count.toml").read_text() + "\n")
    for number in range(12):
        (project.root / f"new-{number:02}.txt").write_text("new\n")
    before = project.entries()
    answer = project.launcher("launch", "count.toml", expect=77)
    assert "git-tree-dirty" in answer.err and "--allow-dirty" in answer.err
    assert "M count.toml" in answer.err and "?? new-00.txt" in answer.err and "and 3 more" in answer.err
    assert "new-11" not in answer.err
    assert project.entries() == before


def test_a_dirty_tree_that_is_allowed_is_kept_as_a_patch_that_applies(project: Project, tmp_path: Path) -> None:
    (project.root / "rows.jsonl").write_bytes(b"{}\n\xe9\xff\n")
    (project.root / "new file.bin").write_bytes(bytes(range(256)))
    project.git("config", "diff.noprefix", "true")
    answer = project.launcher("launch", "count.toml", "--allow-dirty")
    assert "warning" in answer.err and "new file.bin" in answer.err
    patch = (project.run() / "dirty.patch").read_bytes()
    code = project.json("count", "provenance.json")["code"]
    assert code["dirty"] is True and code["patch_sha256"] == hashlib.sha256(patch).hexdigest()
    copy = tmp_path / "copy"
    subprocess.run(["git", "clone", "--quiet", str(project.root), str(copy)], check=True)
    subprocess.run(["git", "apply", str(project.run() / "dirty.patch")], cwd=copy, check=True)
    for name in ("rows.jsonl", "new file.bin"):
        assert (copy / name).read_bytes() == (project.root / name).read_bytes()


def test_runs_inside_the_checkout_do_not_make_it_dirty(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(project.root / ".tunewright"))
    project.launcher("launch", "count.toml")
    project.launcher("launch", "count.toml")
    assert (project.root / ".tunewright" / "runs" / "count-2" / "model").is_dir()


def test_a_dirty_submodule_is_seen_and_said_not_to_be_in_the_patch(project: Project, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.invalid")
    (inner / "code.py").write_text("1\n")
    for command in (["init", "--quiet"], ["add", "--all"], [*identity, "commit", "--quiet", "-m", "inner"]):
        subprocess.run(["git", *command], cwd=inner, check=True)
    project.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner), "inner")
    project.git("commit", "--quiet", "-m", "with a submodule")
    project.launcher("plan", "count.toml")
    (project.root / "inner" / "code.py").write_text("2\n")
    assert " M inner" in project.launcher("plan", "count.toml", expect=77).err
    assert "inner-checkout-not-kept" in project.launcher("plan", "count.toml", "--allow-dirty").err


def test_without_a_commit_nothing_is_launched(project: Project) -> None:
    (project.root / ".git").rename(project.root / "no-git")
    answer = project.launcher("launch", "count.toml", "--allow-dirty", expect=77)
    assert "not-a-git-checkout" in answer.err
    project.git("init", "--quiet")
    answer = project.launcher("launch", "count.toml", expect=77)
    assert "not-a-git-checkout" in answer.err and not (project.home / "runs").exists()


def test_a_launch_that_fails_while_it_prepares_leaves_no_run(project: Project) -> None:
    (project.root / "rows.jsonl").write_text("broken\n")
    project.git("commit", "--quiet", "-am", "broken rows")
    answer = project.launcher("launch", "count.toml", expect=78)
    assert "rows.jsonl:1: has no messages" in answer.err
    assert not (project.home / "runs").exists() or not list((project.home / "runs").iterdir())


def test_a_terminal_gets_a_progress_bar(project: Project) -> None:
    main, side = pty.openpty()
    follower = project.start("launch", "count.toml", stderr=side)
    os.close(side)
    shown = read_until(main, "the end")
    follower.communicate(timeout=50)
    assert follower.returncode == 0
    assert "step 3/3" in shown and "loss 1.3333" in shown and "\u2501" in shown


@pytest.mark.parametrize(("answer", "state"), [("s", "STOPPED"), ("l", "RUNNING")])
def test_ctrl_c_on_a_terminal_asks_what_is_to_become_of_the_job(answer: str, state: str, project: Project) -> None:
    main, side = pty.openpty()
    follower = project.start("launch", "count.toml", *SLOW, stdin=side, stderr=side)
    os.close(side)
    project.wait_for_step(1)
    follower.send_signal(signal.SIGINT)
    assert "(s)top it?" in read_until(main, "(s)top it?")
    os.write(main, f"{answer}\n".encode())
    rest = read_until(main, "the end")
    follower.communicate(timeout=50)
    assert follower.returncode == 130, rest
    assert project.launcher("status", "count", "--json").document["state"] == state


def test_ctrl_c_while_the_bar_appears_gives_the_cursor_back(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("rich.live.Live._enable_redirect_io", lambda _: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt), BarReporter():
        pass
    assert terminal.getvalue().endswith(SHOW_CURSOR)


SHOW_CURSOR = "\x1b[?25h"


def read_until(terminal: int, words: str, seconds: float = 50.0) -> str:
    """What is written to a terminal, until `words` are, or until nobody holds it any more."""
    shown, end = "", time.monotonic() + seconds
    while words not in shown:
        ready, _, _ = select.select([terminal], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"{words!r} not written in {seconds} s: {shown!r}"
        try:
            shown += os.read(terminal, 1 << 16).decode(errors="replace")
        except OSError:  # the other side is closed
            break
    return shown
