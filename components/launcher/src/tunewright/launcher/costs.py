"""What a run will take and cost, by earlier runs and the user's prices. What nobody knows is said to be unknown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from tunewright.contracts.costs import CostEstimate
from tunewright.contracts.errors import PreflightFailed
from tunewright.contracts.experiment import ExperimentSpec
from tunewright.contracts.preflight import Finding, PreflightReport
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.status import JobState
from tunewright.launcher.prepare import CheckedExperiment, make_job
from tunewright.launcher.run_store import all_runs, last_line, read_json
from tunewright.launcher.user_config import Price, UserConfig, profile_of, read_user_config

_MOST_RUNS_LOOKED_AT = 200
"""The newest ones: a home of thousands of runs must not make each launch slow."""

_WITHOUT_EFFECT_ON_PACE = frozenset({
    "max_steps", "num_epochs", "learning_rate", "lr_scheduler", "warmup_ratio", "decay_ratio", "weight_decay",
    "min_learning_rate_ratio", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "label_smoothing",
    "log_every_steps", "max_worker_restarts", "peak_tflops",
})  # fmt: skip
"""Keys of `[training]` that do not change how long a step takes."""

_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class EarlierRun:
    """A run that has succeeded, as far as its time goes."""

    name: str
    experiment: Mapping[str, Any]
    """`resolved.json`, its digest included."""

    steps: int
    seconds: float
    """That the steps took."""


def with_estimates(stages: Sequence[CheckedExperiment]) -> tuple[CheckedExperiment, ...]:
    """Each with what its run will take and cost, in so far as anything is known of it. Says so.

    Raises PreflightFailed where that is more than the user's configuration allows one run.
    """
    config = read_user_config(stages[0].host)
    estimated = tuple(_with_estimate(checked, config) for checked in stages)
    for checked in estimated:
        assert checked.estimate is not None, "it was just made"
        stage = f"{checked.loaded.stage.label}: " if checked.loaded.stage else ""
        nodes = checked.experiment.spec.cluster.nodes
        click.echo(f"estimate: {stage}{estimate_text(checked.estimate, nodes)}", err=True)
        _refuse_too_dear(checked.estimate)
    return estimated


def estimate_events(stages: Sequence[CheckedExperiment]) -> Iterator[dict[str, Any]]:
    """The estimates, as `launch --json` has them before anything else."""
    for checked in stages:
        if checked.estimate is not None:
            stage = {"stage": checked.loaded.stage.name} if checked.loaded.stage else {}
            yield {"event": "estimate", **stage, **estimate_document(checked.estimate)}


def _with_estimate(checked: CheckedExperiment, config: UserConfig) -> CheckedExperiment:
    host, spec = checked.host, checked.experiment.spec
    job = make_job(checked, RunDir.of(checked.home, checked.run_name or spec.name), checked.planned)
    hours, basis = estimate_hours(spec, checked.experiment.digest, earlier_runs(checked.home))
    told = host.estimate_cost(job, hours)
    return replace(checked, estimate=told if told is not None else _priced(spec, hours, basis, config))


def _priced(spec: ExperimentSpec, hours: float | None, basis: str, config: UserConfig) -> CostEstimate:
    """The launcher's own answer, by the prices of the user's configuration."""
    name, price = price_of(spec, config)
    if price is None:
        return CostEstimate(hours=hours, basis=basis)
    return CostEstimate(
        hours=hours,
        per_hour=price.per_hour(spec.cluster),
        currency=price.currency,
        at_most=price.at_most,
        basis="; ".join(part for part in (basis, f"price of `{name}`") if part),
    )


def price_of(spec: ExperimentSpec, config: UserConfig) -> tuple[str, Price | None]:
    """The price of the profile that the experiment runs by, else that of its cluster, with its name."""
    name = profile_of(spec.cluster, config, tuple(config.prices)) or spec.cluster.name
    return name, config.prices.get(name)


def _refuse_too_dear(estimate: CostEstimate) -> None:
    amount, limit = estimate.amount, estimate.at_most
    if amount is None or limit is None or amount <= limit:
        return
    finding = Finding(
        code="cost-above-limit",
        message=f"the run is estimated at {amount:.2f} {estimate.currency}, above the limit of {limit:g} "
        f"{estimate.currency} for one run ({estimate.basis})",
        hint="fewer steps or nodes, or a higher `at_most` in your configuration",
    )
    raise PreflightFailed(f"preflight refused\n  {finding}", "", PreflightReport(findings=(finding,)))


def earlier_runs(home: Path) -> Iterator[EarlierRun]:
    """The runs of this home that have succeeded, the newest first."""
    for run in all_runs(home)[: -_MOST_RUNS_LOOKED_AT - 1 : -1]:
        last = last_line(run.metrics)
        steps, seconds = last.get("step"), last.get("elapsed_seconds")
        if not isinstance(steps, int) or not isinstance(seconds, int | float) or steps < 1 or seconds <= 0:
            continue
        outcome = read_json(run.provenance).get("outcome") or {}
        if outcome.get("state") == JobState.SUCCEEDED:
            yield EarlierRun(run.name, read_json(run.resolved), steps, float(seconds))


def estimate_hours(spec: ExperimentSpec, digest: str, earlier: Iterable[EarlierRun]) -> tuple[float | None, str]:
    """How long the training will run, by the newest earlier run that is alike, and what that rests on.

    The same experiment is the best; else one that differs only in what does not change how long a step takes. None, and
    why, where no run is alike: none on the same cluster with as many processes, on the same data, of the same model.
    """
    if spec.job != "train":
        return None, f"no time is known of jobs that {spec.job}"
    pace, alike = _pace_of(spec.to_document()), list[EarlierRun]()
    for run in earlier:
        if run.experiment.get("digest") == digest:
            return run.seconds / _SECONDS_PER_HOUR, f"as run `{run.name}` took"
        if _pace_of(run.experiment) == pace:
            alike.append(run)
    for run in alike:
        steps = _steps(spec.to_document(), run)
        if steps is not None:
            each = run.seconds / run.steps
            return steps * each / _SECONDS_PER_HOUR, f"{steps:,} steps at {each:.2g} s, as in run `{run.name}`"
    return None, "no earlier run is alike"


def _pace_of(experiment: Mapping[str, Any]) -> object:
    """All that decides how long a step takes."""
    training, cluster = experiment.get("training") or {}, experiment.get("cluster") or {}
    return (
        experiment.get("job", "train"),
        experiment.get("model"),
        experiment.get("dataset"),
        experiment.get("evaluation"),
        {key: value for key, value in training.items() if key not in _WITHOUT_EFFECT_ON_PACE},
        {key: cluster.get(key) for key in ("name", "nodes", "processes_per_node", "options")},
    )


def _steps(experiment: Mapping[str, Any], run: EarlierRun) -> int | None:
    """The steps it will have. Passes over the data are counted by those of an earlier run."""
    training, then = experiment["training"], run.experiment.get("training") or {}
    if training.get("max_steps"):
        return int(training["max_steps"])
    if not then.get("num_epochs"):
        return None
    return round(run.steps * int(training["num_epochs"]) / int(then["num_epochs"]))


def estimate_text(estimate: CostEstimate, nodes: int) -> str:
    """In words: `about 1.2 h on 2 nodes: 14.40 USD (as run `first` took; price of `slurm`)`."""
    where = f"on {nodes} node{'s' if nodes != 1 else ''}"
    time = f"time unknown {where}" if estimate.hours is None else f"about {duration_text(estimate.hours)} {where}"
    if estimate.amount is not None:
        cost = f"{estimate.amount:.2f} {estimate.currency}"
    elif estimate.per_hour is not None:
        cost = f"{estimate.per_hour:.2f} {estimate.currency} an hour"
    else:
        cost = "cost unknown"
    return f"{time}: {cost}" + (f" ({estimate.basis})" if estimate.basis else "")


def estimate_document(estimate: CostEstimate) -> dict[str, Any]:
    """The estimate and its amount, for `--json`."""
    return {**estimate.to_document(), "amount": estimate.amount}


def duration_text(hours: float) -> str:
    """`1.2 h`, `14 min`, `20 s`."""
    seconds = hours * _SECONDS_PER_HOUR
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if hours < 1 else f"{hours:.1f} h"
