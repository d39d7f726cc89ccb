"""What a run will take and cost is told before it starts; what nobody knows is said to be unknown."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest

from components.launcher.project import Project
from tunewright.contracts.costs import CostEstimate, actual_cost
from tunewright.contracts.experiment_file import parse_experiment
from tunewright.contracts.files import write_json_atomically
from tunewright.contracts.hookspecs import hookimpl
from tunewright.contracts.jobs import JobSpec
from tunewright.contracts.plugins import PluginHost
from tunewright.launcher.costs import EarlierRun, duration_text, estimate_hours, estimate_text

PRICE = '[prices.yard]\ncurrency = "USD"\nper_node_hour = 6.0\n'


def write_config(project: Project, text: str) -> None:
    path = project.root.parent / "config" / "tunewright" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_nothing_is_known_of_the_first_run_and_the_second_takes_as_long(project: Project) -> None:
    answer = project.launcher("plan", "count.toml")
    assert "estimate: time unknown on 1 node: cost unknown (no earlier run is alike)" in answer.err
    project.launcher("launch", "count.toml")
    document = project.launcher("plan", "count.toml", "--json").document["estimate"]
    assert document["hours"] == pytest.approx(3 / 3600) and document["basis"] == "as run `count` took"
    more = project.launcher("plan", "count.toml", "--set", "training.max_steps=7200", "--json").document["estimate"]
    assert more["hours"] == pytest.approx(2.0) and more["basis"] == "7,200 steps at 1 s, as in run `count`"
    assert more["per_hour"] is None and more["amount"] is None


def test_the_price_is_told_before_the_start_kept_and_made_the_actual_cost(project: Project) -> None:
    project.launcher("launch", "count.toml")
    write_config(project, PRICE)
    answer = project.launcher("launch", "count.toml", "--json", "--set", "training.max_steps=4")
    first, *_, last = answer.out.splitlines()
    assert '"event": "estimate"' in first and '"amount": 0.00666' in first
    assert project.json("count-2", "estimate.json")["per_hour"] == 6.0
    # The stranger's summary speaks of two hours.
    cost = {"hours": 2.0, "per_hour": 6.0, "amount": 12.0, "currency": "USD"}
    assert project.json("count-2", "provenance.json")["cost"] == cost
    assert '"cost": {' in last and '"amount": 12.0' in last
    assert "cost" not in project.launcher("status", "count", "--json").document
    assert project.launcher("status", "count-2", "--json").document["cost"] == cost


def test_a_profile_has_a_price_of_its_own(project: Project) -> None:
    write_config(project, PRICE + """\
[profiles.blue]
name = "yard"
options = {colour = "blue"}
[prices.blue]
currency = "EUR"
per_gpu_hour = 2.0
""")  # fmt: skip
    plans = [project.launcher("plan", "count.toml", "--cluster", name, "--json").document for name in ("blue", "yard")]
    own, other = (plan["estimate"] for plan in plans)
    assert (own["per_hour"], own["currency"], own["basis"]) == (2.0, "EUR", "no earlier run is alike; price of `blue`")
    assert (other["per_hour"], other["currency"]) == (6.0, "USD")


def test_a_run_that_costs_more_than_one_may_is_refused(project: Project) -> None:
    project.launcher("launch", "count.toml")
    write_config(project, f"{PRICE}at_most = 10.0\n")
    dear = ("--set", "training.max_steps=7200")
    for command in ("plan", "launch"):
        error = project.launcher(command, "count.toml", *dear, expect=77).err
        assert "estimated at 12.00 USD, above the limit of 10 USD" in error and "cost-above-limit" in error
    assert not project.run("count-2").exists()
    project.launcher("plan", "count.toml")


def spec(**training: Any) -> Any:
    return parse_experiment({
        "schema": 1, "name": "x", "model": {"name_or_path": "m"}, "dataset": {"mix": [{"source": "s"}]},
        "training": training, "cluster": {"name": "local"},
    }, "x")  # fmt: skip


def run(name: str, experiment: Any, steps: int = 100, seconds: float = 50.0) -> EarlierRun:
    return EarlierRun(name, {**experiment.to_document(), "digest": name}, steps, seconds)


def test_time_follows_the_newest_run_that_differs_only_in_what_has_no_effect_on_it() -> None:
    short, other_batch = (
        run("short", spec(num_epochs=1, learning_rate=1e-3)),
        run("big", spec(num_epochs=1, batch_size=32)),
    )
    newer = run("newer", spec(num_epochs=1), seconds=100.0)
    assert estimate_hours(spec(num_epochs=3), "?", [short]) == (150 / 3600, "300 steps at 0.5 s, as in run `short`")
    assert estimate_hours(spec(num_epochs=3), "?", [newer, short])[0] == 300 / 3600
    assert estimate_hours(spec(num_epochs=3), "short", [newer, short]) == (50 / 3600, "as run `short` took")
    assert estimate_hours(spec(num_epochs=3), "?", [other_batch]) == (None, "no earlier run is alike")
    in_steps = run("steps", spec(max_steps=100))
    assert estimate_hours(spec(num_epochs=3), "?", [in_steps])[0] is None, "how many steps a pass has, it does not tell"


def test_words_for_people() -> None:
    known = CostEstimate(hours=1.2, per_hour=12.0, currency="USD", basis="as run `first` took")
    assert estimate_text(known, 2) == "about 1.2 h on 2 nodes: 14.40 USD (as run `first` took)"
    assert estimate_text(CostEstimate(per_hour=3.0, currency="EUR"), 1) == "time unknown on 1 node: 3.00 EUR an hour"
    assert [duration_text(hours) for hours in (0.001, 0.25, 1.26)] == ["4 s", "15 min", "1.3 h"]


def test_a_plugin_may_know_better_and_is_asked_first() -> None:
    module = types.ModuleType("knows_better")

    @hookimpl
    def tunewright_estimate_cost(job: JobSpec, hours: float | None) -> CostEstimate:
        return CostEstimate(hours=(hours or 0) + 1, per_hour=2.0, currency=job.run)

    module.__dict__["tunewright_estimate_cost"] = tunewright_estimate_cost
    host, job = PluginHost(), JobSpec(run="USD", run_dir="/r", command=("true",))
    assert host.estimate_cost(job, 1.0) is None
    host.register(module, "knows-better")
    assert host.estimate_cost(job, 1.0) == CostEstimate(hours=2.0, per_hour=2.0, currency="USD")


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (("2026-11-21T00:00:00.000Z", "2026-11-21T00:30:00.000Z"), {"hours": 0.5, "amount": 1.5}),
        (("2026-11-21T00:00:00.000Z", None), {}),
        (("2026-11-21T01:00:00.000Z", "2026-11-21T00:30:00.000Z"), {}),
        (("2026-11-21T00:00:00", "2026-11-21T00:30:00.000Z"), {}),
    ],
)
def test_the_actual_cost_needs_a_price_a_start_and_an_end(
    times: tuple[str, str | None], expected: dict[str, float], tmp_path: Path
) -> None:
    path = tmp_path / "estimate.json"
    assert actual_cost(path, *times) == {}
    write_json_atomically(path, CostEstimate(per_hour=3.0, currency="USD").to_document())
    told = actual_cost(path, *times)
    assert {key: told[key] for key in expected} == expected and bool(told) == bool(expected)
