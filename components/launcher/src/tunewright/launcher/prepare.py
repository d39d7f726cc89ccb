"""From an experiment file to a planned job: everything that is decided before the cluster hears of it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from tunewright.contracts.clusters import Cluster
from tunewright.contracts.datasets import CachedDataset, DatasetRequest
from tunewright.contracts.environments import EnvironmentRef, EnvironmentRequest
from tunewright.contracts.experiment import ResolvedExperiment
from tunewright.contracts.experiment_file import LoadedExperiment, find_cache_root, resolve_model
from tunewright.contracts.jobs import JobSpec, LaunchOrigin, ModelReference, Resources, SubmissionPlan
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.preflight import PreflightReport
from tunewright.contracts.rundir import RunDir
from tunewright.launcher.clusters import open_cluster
from tunewright.launcher.code_origin import Checkout, inspect_checkout
from tunewright.launcher.preflight import refuse_errors, run_preflight
from tunewright.launcher.resolve import cluster_options, load_with_options, resolve_experiment
from tunewright.launcher.run_store import json_bytes, plan_files
from tunewright.launcher.user import user_name


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
    environment: EnvironmentRef
    """What the environment will be; not built."""

    dataset: CachedDataset
    """What the dataset will be; not prepared."""

    host: PluginHost
    cluster: Cluster

    @property
    def home(self) -> Path:
        """`$TUNEWRIGHT_HOME`."""
        return self.loaded.home

    def build_environment(self) -> EnvironmentRef:
        """The environment itself, built where it is not there yet."""
        return self.host.provide_environment(_environment_request(self.experiment, self.checkout, plan_only=False))

    def prepare_dataset(self) -> CachedDataset:
        """The dataset itself, prepared where it is not there yet."""
        request = _dataset_request(self.experiment, self.model, plan_only=False)
        return self.host.provide_dataset(request, find_cache_root(self.home))


def check_experiment(arguments: ExperimentArguments, host: PluginHost) -> CheckedExperiment:
    """Load, resolve and judge an experiment. Writes nothing and opens no socket; raises what is wrong with it."""
    assignments = arguments.assignments
    if arguments.cluster is not None:
        # A JSON string is a TOML string: whatever the name holds, it stays one name.
        assignments = (*assignments, f"cluster.name={json.dumps(arguments.cluster)}")
    loaded = load_with_options(arguments.path, assignments, host)
    experiment = resolve_experiment(loaded, host)
    checkout = inspect_checkout(loaded.project_root, loaded.home, arguments.allow_dirty)
    cluster = open_cluster(experiment.spec.cluster.name, host)
    model = resolve_model(experiment.spec.model, loaded.project_root, loaded.home)
    report = run_preflight(experiment, host, cluster, checkout.findings)
    refuse_errors(report)
    dataset = host.provide_dataset(_dataset_request(experiment, model, plan_only=True), find_cache_root(loaded.home))
    environment = host.provide_environment(_environment_request(experiment, checkout, plan_only=True))
    return CheckedExperiment(loaded, experiment, checkout, report, model, environment, dataset, host, cluster)


def _environment_request(experiment: ResolvedExperiment, checkout: Checkout, plan_only: bool) -> EnvironmentRequest:
    return EnvironmentRequest(
        spec=experiment.spec.environment,
        project_root=experiment.project_root,
        home=experiment.home,
        code=checkout.origin,
        plan_only=plan_only,
    )


def _dataset_request(experiment: ResolvedExperiment, model: ModelReference, plan_only: bool) -> DatasetRequest:
    return DatasetRequest(
        dataset=experiment.spec.dataset,
        tokenizer=model.name_or_path,
        tokenizer_revision=model.revision,
        chat_template=experiment.spec.model.chat_template,
        seed=experiment.spec.seed,
        project_root=experiment.project_root,
        plan_only=plan_only,
    )


def make_job(checked: CheckedExperiment, run: RunDir, environment: EnvironmentRef, dataset: CachedDataset) -> JobSpec:
    """The job of `run`, in this environment, on this dataset."""
    spec = checked.experiment.spec
    return JobSpec(
        run=run.name,
        run_dir=str(run.path),
        command=(*environment.command, "train", str(run.job)),
        variables={**environment.variables, **spec.cluster.environment},
        secrets=spec.cluster.secrets,
        resources=Resources(nodes=spec.cluster.nodes, processes_per_node=spec.cluster.processes_per_node),
        max_retries=spec.cluster.max_retries,
        experiment=spec,
        model=checked.model,
        environment=environment,
        dataset=dataset,
        origin=LaunchOrigin(
            code=checked.checkout.origin,
            user=user_name(),
            host=os.uname().nodename,
            plugins=checked.host.versions,
        ),
    )


def plan_job(checked: CheckedExperiment, job: JobSpec) -> SubmissionPlan:
    """Exactly what the cluster will get."""
    info = checked.host.clusters.get(checked.experiment.spec.cluster.name)
    return checked.cluster.plan(job, cluster_options(checked.experiment.spec, info))


def run_files(
    checked: CheckedExperiment, job: JobSpec, environment: EnvironmentRef, dataset: CachedDataset, plan: SubmissionPlan
) -> dict[str, bytes]:
    """The files of a run's directory before it is submitted, by path in it."""
    files = {
        "experiment.toml": checked.loaded.source.encode(),
        "resolved.json": json_bytes(resolved_document(checked.experiment)),
        "preflight.json": json_bytes(checked.report.to_document()),
        "environment.json": json_bytes(environment.to_document()),
        "dataset.json": json_bytes(dataset.to_document()),
        "job.json": json_bytes(job.to_document()),
        **plan_files(plan),
    }
    if checked.checkout.patch:
        files["dirty.patch"] = checked.checkout.patch
    return files


def resolved_document(experiment: ResolvedExperiment) -> dict[str, object]:
    """What `resolved.json` holds: the experiment with every default, and its digest."""
    return {**experiment.spec.to_document(), "digest": experiment.digest}
