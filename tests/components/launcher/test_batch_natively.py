"""Clusters that start jobs after others and take arrays: the launcher leaves it to them, and says what they said."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from components.launcher.project import HELD, Project, of_stage
from tunewright.launcher import arrays

pytestmark = pytest.mark.timeout(180)

PACED = ("--set", "training.options.pause_seconds=0.1", "--set", "training.max_steps=5")
STAGES = """
[[stages]]
name = "first"
[[stages]]
name = "second"
[stages.training]
max_steps = 2
[[stages]]
name = "other"
after = ["first"]
[[stages]]
name = "last"
after = ["second", "other"]
"""
HELD_FIRST = of_stage(0, HELD)


def submissions(project: Project) -> list[str]:
    """What the harbour got, in order."""
    path = project.home / "submissions"
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def stages(harbour: Project) -> Project:
    text = (harbour.root / "count.toml").read_text().replace('name = "yard"', 'name = "harbour"')
    (harbour.root / "stages.toml").write_text(text + STAGES)
    harbour.git("add", "--all")
    harbour.git("commit", "--quiet", "-m", "stages")
    return harbour


def test_a_sweep_is_one_submission_where_the_cluster_takes_arrays(harbour: Project) -> None:
    arguments = ("sweep", "count.toml", "--cluster", "harbour", "--grid", "seed=1,2,3", "--name", "s", "--json")
    document = harbour.launcher(*arguments).last_document
    assert [row["state"] for row in document["runs"]] == ["SUCCEEDED"] * 3
    assert [line.split()[:3] for line in submissions(harbour)] == [["array", "of", "3"]]
    array = harbour.home / "sweeps" / "s" / "array-1"
    sent, kept = json.loads((array / "array.json").read_text()), harbour.json("s-2", "handle.json")
    assert kept["native_id"].startswith(sent["key"]) and kept["native_id"].endswith("_1")
    assert [one["run"] for one in sent["runs"]] == ["s-1", "s-2", "s-3"]
    assert harbour.lines("s-3", "events.jsonl")[0]["message"] == f"submitting as {sent['key']}"
    told = [line for line in harbour.heard() if line.startswith("submitted")]
    assert len(told) == 3


def test_the_states_of_an_array_are_one_question(harbour: Project) -> None:
    grid = ("--grid", f"seed={','.join(map(str, range(8)))}", "--name", "s", *PACED, "--detach")
    harbour.launcher("sweep", "count.toml", "--cluster", "harbour", *grid)
    (harbour.home / "asked").unlink()
    document = harbour.launcher("status", "s", "--json").document
    assert len(document["runs"]) == 8 and (harbour.home / "asked").read_text() == "8\n"
    harbour.launcher("wait", "s")


def test_at_most_is_left_to_the_array(harbour: Project) -> None:
    arguments = ("sweep", "count.toml", "--cluster", "harbour", *PACED, "--grid", "seed=1,2,3", "--at-most", "1")
    answer = harbour.launcher(*arguments, "--name", "s", "--detach", "--json")
    assert sorted(row["state"] for row in answer.last_document["runs"])[:2] == ["QUEUED", "QUEUED"]
    assert not (harbour.home / "sweeps" / "s" / "waiter.log").exists()
    assert json.loads((harbour.home / "sweeps" / "s" / "array-1" / "array.json").read_text())["files"]
    harbour.launcher("wait", "s")
    assert [line.split()[0] for line in submissions(harbour)] == ["array"]


def test_jobs_that_ask_for_other_resources_are_not_in_one_array(harbour: Project) -> None:
    arguments = ("sweep", "count.toml", "--cluster", "harbour", "--grid", "seed=1,2")
    more = ("--grid", "cluster.options.colour=red,blue")
    harbour.launcher(*arguments, *more, "--name", "free")
    assert [line.split()[:3] for line in submissions(harbour)] == [["array", "of", "2"]] * 2
    harbour.launcher(*arguments, *more, "--name", "bound", "--at-most", "3")
    assert [line.split()[0] for line in submissions(harbour)[2:]] == ["one"] * 4


def test_points_that_failed_are_sent_again_and_only_they(harbour: Project) -> None:
    arguments = ("sweep", "count.toml", "--cluster", "harbour", "--name", "s", "--json", "--grid", "seed=1,2,3",
                 "--grid", "training.options.stop_at_step=9,2", "--set", "training.options.exit_code=5")  # fmt: skip
    harbour.launcher(*arguments, expect=5)
    document = harbour.launcher(*arguments).last_document
    assert [row["state"] for row in document["runs"]] == ["SUCCEEDED"] * 6
    assert [line.split()[2] for line in submissions(harbour)] == ["6", "3"]


def test_an_array_whose_submission_was_not_confirmed_is_found_by_its_key(
    harbour: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("sweep", "count.toml", "--cluster", "harbour", *PACED, "--grid", "seed=1,2", "--name", "s", "--json")

    def die(*_given: Any) -> None:
        sys.exit(137)

    with monkeypatch.context() as patched:
        patched.setattr(arrays, "_keep", die)  # killed between the cluster's answer and the first handle
        harbour.launcher(*arguments, expect=137)
    assert not (harbour.run("s-1") / "handle.json").exists() and len(submissions(harbour)) == 1
    document = harbour.launcher(*arguments).last_document
    assert document["state"] == "SUCCEEDED"
    keys = {line.split()[-1] for line in submissions(harbour)}
    assert len(keys) == 1 and [len(list(harbour.run(f"s-{n}").glob("yard/*"))) for n in (1, 2)] == [1, 1]


def test_an_array_that_is_refused_leaves_runs_that_go_on_later(harbour: Project, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    arguments = ("sweep", "count.toml", "--cluster", "harbour", "--grid", "seed=1,2", "--name", "s",
                 "--set", f"cluster.options.gate={gate}")  # fmt: skip
    assert "is shut" in harbour.launcher(*arguments, expect=69).err
    gate.unlink()
    harbour.launcher(*arguments)
    assert [line.split()[:3] for line in submissions(harbour)] == [["array", "of", "2"]]


def test_a_sweep_larger_than_an_array_may_be_is_sent_as_several_of_much_the_same_size(harbour: Project) -> None:
    seeds = ",".join(str(seed) for seed in range(1, 11))
    arguments = ("sweep", "count.toml", "--cluster", "harbour", "--grid", f"seed={seeds}", "--name", "s", "--json")
    document = harbour.launcher(*arguments).last_document
    assert [row["state"] for row in document["runs"]] == ["SUCCEEDED"] * 10
    assert [line.split()[:3] for line in submissions(harbour)] == [["array", "of", "5"]] * 2


def test_a_cluster_that_claims_arrays_and_has_none_is_named(harbour: Project) -> None:
    answer = harbour.launcher("sweep", "count.toml", "--cluster", "liar", "--grid", "seed=1,2", expect=78)
    assert "failed in largest_array" in answer.err and "`harbour`" in answer.err and "Traceback" not in answer.err


def test_detached_stages_are_all_sent_at_once_where_the_cluster_starts_jobs_after_others(stages: Project) -> None:
    document = stages.launcher("launch", "stages.toml", *HELD_FIRST, "--detach", "--json").last_document
    assert (document["pipeline"], document["run"]) == ("count", "count-first")
    assert [one["state"] for one in document["stages"]][1:] == ["QUEUED"] * 3
    assert len(submissions(stages)) == 4 and not (stages.home / "pipelines" / "count" / "waiter.log").exists()
    model = stages.json("count-second", "job.json")["model"]
    assert model == {"name_or_path": str(stages.run("count-first") / "model"), "revision": None, "sha256": None,
                     "run": "count-first"}  # fmt: skip
    stages.let_go()
    done = stages.launcher("wait", "count", "--json").last_document
    assert [row["state"] for row in done["runs"]] == ["SUCCEEDED"] * 4 and done["exit_code"] == 0
    after = {row["stage"]: row["after"] for row in done["runs"]}
    assert after == {"first": [], "second": ["count-first"], "other": ["count-first"],
                     "last": ["count-second", "count-other"]}  # fmt: skip


def test_a_stage_that_fails_ends_those_after_it_and_the_cause_is_told(stages: Project) -> None:
    failing = ("--set", "stages.1.training.options.exit_code=42", "--set", "stages.1.training.options.stop_at_step=2")
    stages.launcher("launch", "stages.toml", *failing, "--detach")
    document = stages.launcher("wait", "count", "--json", expect=42).last_document
    ends = [(row["stage"], row["state"], row["cause"]) for row in document["runs"]]
    assert ends == [("first", "SUCCEEDED", "exit"), ("second", "FAILED", "exit"), ("other", "SUCCEEDED", "exit"),
                    ("last", "STOPPED", "dependency")]  # fmt: skip
    assert stages.json("count-last", "provenance.json")["outcome"]["cause"] == "dependency"
    stages.launcher("launch", "stages.toml", *failing, "--detach", "--name", "count")
    done = stages.launcher("wait", "count", "--json").last_document
    assert [row["state"] for row in done["runs"]] == ["SUCCEEDED"] * 4
    assert [len(list(stages.run(f"count-{name}").glob("yard/*"))) for name in ("first", "second", "last")] == [1, 2, 2]


def test_a_launcher_that_stays_follows_what_a_detached_one_has_sent(stages: Project) -> None:
    slow = ("--set", "stages.0.training.options.pause_seconds=0.2")
    stages.launcher("launch", "stages.toml", *slow, "--detach")
    document = stages.launcher("launch", "stages.toml", *slow, "--name", "count", "--json").last_document
    assert [one["state"] for one in document["stages"]] == ["SUCCEEDED"] * 4
    assert len(submissions(stages)) == 4


def test_stop_ends_what_runs_and_what_waits_in_the_cluster(stages: Project) -> None:
    stages.launcher("launch", "stages.toml", *HELD_FIRST, "--detach")
    stages.wait_for_step(1, "count-first")
    document = stages.launcher("stop", "count", "--json").document
    assert {row["state"] for row in document["runs"]} == {"STOPPED"}
