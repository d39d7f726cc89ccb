"""From an experiment file to a planned job: everything that is decided before the cluster hears of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tunewright.contracts.clusters import Cluster
from tunewright.contracts.costs import CostEstimate
from tunewright.contracts.errors import TunewrightError, UsageError
from tunewright.contracts.experiment import NAME_PATTERN, ResolvedExperiment
from tunewright.contracts.experiment_file import LoadedExperiment, find_cache_root, resolve_model
from tunewright.contracts.jobs import JobSpec, LaunchOrigin, ModelReference, Resources, SubmissionPlan
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.preflight import PreflightReport
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.spec import Spec
from tunewright.contracts.stages import RUN_PREFIX, stage_run
from tunewright.launcher.clusters import open_cluster
from tunewright.launcher.code_origin import Checkout, inspect_checkout
from tunewright.launcher.preflight import joint_report, refuse_errors, run_preflight, successor_findings
from tunewright.launcher.questions import Prepared, Questions
from tunewright.launcher.resolve import cluster_options, load_with_options, resolve_stages
from tunewright.launcher.run_store import free_name, json_bytes, plan_files
from tunewright.launcher.user import user_name
from tunewright.launcher.user_config import choose_cluster, read_user_config


@dataclass(frozen=True)
class ExperimentArguments:
    """What `launch` and `plan` take."""

    path: Path
    assignments: tuple[str, ...] = ()
    cluster: str | None = None
    name: str | None = None
    allow_dirty: bool = False


@dataclass(frozen=True)
class CheckedExperiment:
    """An experiment that nothing speaks against, with what it will need: nothing was built or written yet."""

    loaded: LoadedExperiment
    experiment: ResolvedExperiment
    checkout: Checkout
    report: PreflightReport
    model: ModelReference
    """In a later stage without a digest, until the stage before has left it."""

    questions: Questions
    planned: Prepared
    """What its environment and datasets will be; not made."""

    host: PluginHost
    cluster: Cluster
    pipeline: str | None = None
    """Of a stage: the name that the pipeline is launched under."""

    estimate: CostEstimate | None = None
    """What the run will take and cost, where anybody asked."""

    @property
    def home(self) -> Path:
        """`$TUNEWRIGHT_HOME`."""
        return self.loaded.home

    @property
    def run_name(self) -> str | None:
        """The name of a stage's run; an experiment without stages has none yet."""
        return self.loaded.stage.run_in(self.pipeline) if self.loaded.stage and self.pipeline else None


def check_experiments(arguments: ExperimentArguments, host: PluginHost) -> tuple[CheckedExperiment, ...]:
    """Load, resolve and judge an experiment: one for each stage of the file, or one.

    Writes nothing and opens no socket; raises what is wrong with any of them.
    """
    stages, pipeline = _named(load_with_options(arguments.path, all_assignments(arguments, host), host), arguments.name)
    experiments = resolve_stages(stages, host)
    checkout = inspect_checkout(stages[0].project_root, stages[0].home, arguments.allow_dirty)
    clusters = [open_cluster(experiment.spec.cluster.name, host) for experiment in experiments]
    models = [find_model(loaded) for loaded in stages]
    reports = [
        run_preflight(experiment, host, cluster, (*checkout.findings, *successor_findings(number, stages, host)))
        for number, (experiment, cluster) in enumerate(zip(experiments, clusters, strict=True))
    ]
    refuse_errors(joint_report([loaded.stage for loaded in stages], reports))
    checked = []
    for loaded, experiment, cluster, model, report in zip(stages, experiments, clusters, models, reports, strict=True):
        with naming_stage(loaded):
            questions = questions_of(loaded, experiment, checkout, model, host)
            planned = questions.plan()
        one = CheckedExperiment(
            loaded, experiment, checkout, report, model, questions, planned, host, cluster, pipeline
        )
        checked.append(one)
    return tuple(checked)


def all_assignments(arguments: ExperimentArguments, host: PluginHost) -> tuple[str, ...]:
    """Those of `--set`, with the cluster that `--cluster` and the user's configuration choose."""
    return choose_cluster(arguments.path, arguments.assignments, arguments.cluster, read_user_config(host))


def _named(stages: Sequence[LoadedExperiment], name: str | None) -> tuple[tuple[LoadedExperiment, ...], str | None]:
    """The stages with the runs they will have, and the pipeline's name; None for an experiment without stages."""
    names = [loaded.stage.name for loaded in stages if loaded.stage]
    if not names:
        return tuple(stages), None
    first = stages[0]
    written = first.spec.name.removesuffix(stage_run("", names[0]))
    pipeline = name or free_name(first.home, written, [stage_run("", stage) for stage in names])
    longest = max((stage_run(pipeline, stage) for stage in names), key=len)
    if not re.fullmatch(NAME_PATTERN, longest):
        raise UsageError(f"--name {pipeline}: too long: a stage's run would be `{longest}`", "at most 63 characters")
    return tuple(loaded.in_pipeline(pipeline) for loaded in stages), pipeline


@contextmanager
def naming_stage(loaded: LoadedExperiment) -> Iterator[None]:
    """Errors inside name the stage, where there is one."""
    try:
        yield
    except TunewrightError as error:
        if loaded.stage is not None:
            error.message = f"{loaded.stage.label}: {error.message}"
        raise


def find_model(loaded: LoadedExperiment, is_planned: bool = True) -> ModelReference:
    """The model it starts from. In a plan that of an earlier stage need not be there: then it has no digest."""
    with naming_stage(loaded):
        if is_planned and loaded.stage is not None and loaded.stage.before is not None:
            run = RunDir.of(loaded.home, loaded.spec.model.name_or_path.removeprefix(RUN_PREFIX))
            if not run.model.is_dir():
                return ModelReference(name_or_path=str(run.model), run=run.name)
        takes_adapters = loaded.spec.job != "train"
        return resolve_model(loaded.spec.model, loaded.project_root, loaded.home, allow_adapters=takes_adapters)


def questions_of(
    loaded: LoadedExperiment,
    experiment: ResolvedExperiment,
    checkout: Checkout,
    model: ModelReference,
    host: PluginHost,
) -> Questions:
    """What is asked of plugins for the experiment: of a later stage with the tokenizer of the first."""
    tokenizer = model
    if loaded.first_model is not None:
        tokenizer = resolve_model(
            loaded.first_model, loaded.project_root, loaded.home, with_digest=False, allow_adapters=True
        )
    template, cache_root = loaded.dataset_model.chat_template, find_cache_root(loaded.home)
    return Questions(experiment, checkout.origin, tokenizer, template, cache_root, host)


def launch_origin(checked: CheckedExperiment) -> LaunchOrigin:
    """Who launches, from what code, with which plugins."""
    return LaunchOrigin(
        code=checked.checkout.origin,
        user=user_name(),
        host=os.uname().nodename,
        plugins=checked.host.versions,
        first_model=checked.loaded.first_model,
    )


def make_job(
    checked: CheckedExperiment, run: RunDir, prepared: Prepared, origin: LaunchOrigin | None = None
) -> JobSpec:
    """The job of `run`, in this environment, on these datasets. Whoever makes many gives `origin`, alike for all."""
    spec, environment = checked.experiment.spec, prepared.environment
    return JobSpec(
        run=run.name,
        run_dir=str(run.path),
        command=(*environment.command, spec.job, str(run.job)),
        variables={**environment.variables, **spec.cluster.environment},
        secrets=spec.cluster.secrets,
        resources=Resources(nodes=spec.cluster.nodes, processes_per_node=spec.cluster.processes_per_node),
        max_retries=spec.cluster.max_retries,
        experiment=spec,
        model=checked.model,
        environment=environment,
        dataset=prepared.dataset,
        evaluation_dataset=prepared.evaluation_dataset,
        origin=origin or launch_origin(checked),
    )


def job_like(other: JobSpec, checked: CheckedExperiment, run: RunDir) -> JobSpec:
    """The job of `run`, made from `other`, from which it differs in nothing but its run and its experiment."""
    own = {
        "run": run.name,
        "run_dir": str(run.path),
        "command": (*other.command[:-1], str(run.job)),
        "experiment": checked.experiment.spec,
    }
    return other.model_copy(update=own)


def plan_job(checked: CheckedExperiment, job: JobSpec, options: Spec | None = None) -> SubmissionPlan:
    """Exactly what the cluster will get. Whoever plans many gives `options`, parsed once for those that share them."""
    return checked.cluster.plan(job, options or options_of(checked))


def options_of(checked: CheckedExperiment) -> Spec:
    """`[cluster.options]` as the cluster's own type."""
    spec = checked.experiment.spec
    return cluster_options(spec, checked.host.clusters.get(spec.cluster.name))


def run_files(checked: CheckedExperiment, job: JobSpec, prepared: Prepared, plan: SubmissionPlan) -> dict[str, bytes]:
    """The files of a run's directory before it is submitted, by path in it."""
    files = {
        "experiment.toml": checked.loaded.source.encode(),
        "resolved.json": json_bytes(resolved_document(checked.experiment)),
        "preflight.json": json_bytes(checked.report.to_document()),
        "environment.json": json_bytes(prepared.environment.to_document()),
        "dataset.json": json_bytes(prepared.dataset.to_document()),
        "job.json": json_bytes(job.to_document()),
        **plan_files(plan),
    }
    if prepared.evaluation_dataset is not None:
        files["evaluation_dataset.json"] = json_bytes(prepared.evaluation_dataset.to_document())
    if checked.estimate is not None and (checked.estimate.hours, checked.estimate.per_hour) != (None, None):
        files["estimate.json"] = json_bytes(checked.estimate.to_document())
    if checked.checkout.patch:
        files["dirty.patch"] = checked.checkout.patch
    return files


def resolved_document(experiment: ResolvedExperiment) -> dict[str, object]:
    """What `resolved.json` holds: the experiment with every default, and its digest."""
    return {**experiment.spec.to_document(), "digest": experiment.digest}
