"""From an experiment file to a planned job: everything that is decided before the cluster hears of it."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunewright.contracts.clusters import Cluster
from tunewright.contracts.datasets import CachedDataset, DatasetRequest
from tunewright.contracts.environments import EnvironmentRef, EnvironmentRequest
from tunewright.contracts.experiment import ResolvedExperiment
from tunewright.contracts.experiment_file import LoadedExperiment, load_experiment, resolve_model
from tunewright.contracts.jobs import JobSpec, LaunchOrigin, ModelReference, Resources, SubmissionPlan
from tunewright.contracts.plugins import PluginHost, load_entry
from tunewright.contracts.preflight import PreflightReport
from tunewright.contracts.rundir import RunDir
from tunewright.launcher.code_origin import Checkout, inspect_checkout
from tunewright.launcher.preflight import refuse_errors, run_preflight
from tunewright.launcher.resolve import cluster_options, resolve_experiment


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
        return self.host.provide_dataset(request, str(self.home / "datasets"))


def check_experiment(arguments: ExperimentArguments, host: PluginHost) -> CheckedExperiment:
    """Load, resolve and judge an experiment. Writes nothing and opens no socket; raises what is wrong with it."""
    assignments = arguments.assignments
    if arguments.cluster is not None:
        assignments = (*assignments, f'cluster.name="{arguments.cluster}"')
    loaded = load_experiment(arguments.path, assignments)
    checkout = inspect_checkout(loaded.project_root, arguments.allow_dirty)
    experiment = resolve_experiment(loaded, host)
    cluster = _load_cluster(experiment.spec.cluster.name, host)
    model = resolve_model(experiment.spec.model, loaded.project_root, loaded.home)
    report = run_preflight(experiment, host, cluster, checkout.findings)
    refuse_errors(report)
    dataset = host.provide_dataset(_dataset_request(experiment, model, plan_only=True), str(loaded.home / "datasets"))
    environment = host.provide_environment(_environment_request(experiment, checkout, plan_only=True))
    return CheckedExperiment(loaded, experiment, checkout, report, model, environment, dataset, host, cluster)


def _load_cluster(name: str, host: PluginHost) -> Cluster:
    info = host.clusters.get(name, "cluster.name")
    cluster: Cluster = load_entry(info.entry, host.clusters.owner_of(name))()
    return cluster


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
            user=_user(),
            host=socket.gethostname(),
            plugins=checked.host.versions,
        ),
    )


def plan_job(checked: CheckedExperiment, job: JobSpec) -> SubmissionPlan:
    """Exactly what the cluster will get."""
    info = checked.host.clusters.get(checked.experiment.spec.cluster.name)
    return checked.cluster.plan(job, cluster_options(checked.experiment.spec, info))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as containers have
        return "unknown"


def planned_documents(
    checked: CheckedExperiment, job: JobSpec, environment: EnvironmentRef, dataset: CachedDataset
) -> tuple[dict[str, object], dict[str, str]]:
    """The files of a run's directory before it is submitted: JSON documents and texts, by name."""
    documents: dict[str, object] = {
        "resolved.json": {**checked.experiment.spec.to_document(), "digest": checked.experiment.digest},
        "preflight.json": checked.report.to_document(),
        "environment.json": environment.to_document(),
        "dataset.json": dataset.to_document(),
        "job.json": job.to_document(),
    }
    texts = {"experiment.toml": checked.loaded.source}
    if checked.checkout.patch:
        texts["dirty.patch"] = checked.checkout.patch.decode("utf-8", "surrogateescape")
    return documents, texts


def say_notes(report: PreflightReport) -> Sequence[str]:
    """What preflight has to say that does not refuse."""
    from tunewright.launcher.preflight import notes

    return [f"{finding.severity}: {finding}" for finding in notes(report)]
