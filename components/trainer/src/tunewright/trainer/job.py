"""Reading a job and what it needs: everything that can be wrong is found before the first process is started."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from tunewright.contracts.dataset_copies import fetch_copy, is_url, node_cache_directory
from tunewright.contracts.datasets import CachedDataset, DatasetManifest, mark_used, read_manifest, verify_cache
from tunewright.contracts.errors import InvalidExperiment, NotFound, Problem
from tunewright.contracts.experiment import ExperimentSpec
from tunewright.contracts.jobs import JobSpec, ModelReference
from tunewright.contracts.plugins import PluginHost, options_type_of
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.spec import Spec, digest_of
from tunewright.contracts.variants import VariantInfo
from tunewright.trainer.strategies.names import STRATEGIES


@dataclass(frozen=True)
class TrainingJob:
    """A job of the trainer, with what it names found: a training, or an evaluation or export of a model."""

    job: JobSpec
    experiment: ExperimentSpec
    model: ModelReference
    dataset: Path
    """Where this node reads the cache. One at a URL is copied there by `fetch_dataset`."""

    variant: VariantInfo
    options: Spec
    host: PluginHost

    evaluation_dataset: Path | None = None
    """The same of the dataset it is evaluated on, where `[evaluation]` has sources of its own."""

    @property
    def run_dir(self) -> RunDir:
        """Where everything is written."""
        return RunDir(Path(self.job.run_dir))

    @property
    def num_processes(self) -> int:
        """Processes over all nodes."""
        return self.job.resources.nodes * self.job.resources.processes_per_node

    @property
    def experiment_digest(self) -> str:
        """SHA-256 of the resolved experiment: a checkpoint of another one is not gone on from."""
        return digest_of(self.experiment.to_document())


def read_job(path: Path) -> JobSpec:
    """The job at `path`. Raises NotFound, or InvalidExperiment for a file that is no job."""
    try:
        return JobSpec.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"{path}: no such job", "a job is the `job.json` of a run's directory") from None
    except ValidationError as error:
        problems = [Problem(".".join(map(str, one["loc"])), one["msg"]) for one in error.errors()]
        raise InvalidExperiment.from_problems(str(path), problems) from None


def open_job(path: Path) -> TrainingJob:
    """Read the job and find its variant. Raises UnknownPlugin, or InvalidExperiment for what cannot be trained."""
    job = read_job(path)
    if job.experiment is None or job.model is None or job.dataset is None:
        raise InvalidExperiment(f"{path}: is no training: it has no experiment, no model or no dataset")
    host = PluginHost.discover()
    info = host.variants.get(job.experiment.training.variant, "training.variant")
    _refuse_strategy(job.experiment, info)
    options = parse_options(info, job.experiment)
    _refuse_missing_evaluation(path, job)
    dataset, own = dataset_directory(job.dataset), job.evaluation_dataset
    evaluation = None if own is None else dataset_directory(own)
    return TrainingJob(job, job.experiment, job.model, dataset, info, options, host, evaluation)


def _refuse_missing_evaluation(path: Path, job: JobSpec) -> None:
    assert job.experiment is not None
    if job.experiment.evaluation_dataset is not None and job.evaluation_dataset is None:
        raise InvalidExperiment(
            f"{path}: `evaluation.mix` names sources, the job has no evaluation_dataset",
            "launch it again: the launcher prepares that dataset",
        )


def dataset_directory(dataset: CachedDataset) -> Path:
    """The directory in which this node reads `dataset`: its own, or that of the node's copy where it is at a URL."""
    return node_cache_directory() / dataset.digest if is_url(dataset.path) else Path(dataset.path)


def fetch_dataset(job: TrainingJob) -> None:
    """Have the cache on this node. Raises NotFound, Unavailable or CacheCorrupted where it cannot be copied."""
    assert job.job.dataset is not None
    _fetch(job.job.dataset, job.dataset)


def _fetch(dataset: CachedDataset, directory: Path) -> None:
    if is_url(dataset.path):
        fetch_copy(dataset.path, dataset.digest, directory.parent, _say)
    mark_used(directory)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _refuse_strategy(experiment: ExperimentSpec, info: VariantInfo) -> None:
    strategy, possible = experiment.training.strategy, sorted(info.strategies & STRATEGIES)
    if experiment.job == "train" and strategy not in possible:
        message = f"`{strategy}` cannot train variant `{info.name}` here; possible: {', '.join(possible)}"
        why = info.refusals.get(strategy, "")
        raise InvalidExperiment.from_problems(experiment.name, [Problem("training.strategy", message, why)])


def parse_options(info: VariantInfo, experiment: ExperimentSpec) -> Spec:
    """`[training.options]` as the variant's own type."""
    try:
        return options_type_of(info).model_validate(experiment.training.options)
    except ValidationError as error:
        problems = [
            Problem(".".join(("training.options", *map(str, one["loc"]))), one["msg"]) for one in error.errors()
        ]
        raise InvalidExperiment.from_problems(experiment.name, problems) from None


def verify_dataset(job: TrainingJob) -> DatasetManifest:
    """Check every file of the cache against its digest. Raises CacheCorrupted: such a cache is never trained on.

    A cache at a URL is copied to this node first. So is the dataset it is evaluated on, where it has one of its own.
    """
    assert job.job.dataset is not None
    if job.job.evaluation_dataset is not None and job.evaluation_dataset is not None:
        _verify(job, job.job.evaluation_dataset, job.evaluation_dataset, "evaluation.mix")
    return _verify(job, job.job.dataset, job.dataset, "dataset.mix")


def _verify(job: TrainingJob, dataset: CachedDataset, directory: Path, key: str) -> DatasetManifest:
    _fetch(dataset, directory)
    manifest = verify_cache(directory)
    if manifest.digest != dataset.digest:
        raise InvalidExperiment(
            f"{directory}: is dataset {manifest.digest[:12]}, the job asks for {dataset.digest[:12]}"
        )
    if manifest.rows == 0:
        raise InvalidExperiment.from_problems(job.experiment.name, [Problem(key, "the dataset has no rows")])
    return manifest


def read_verified_manifest(job: TrainingJob) -> DatasetManifest:
    """The manifest of a cache that the node has verified already."""
    return read_manifest(job.dataset)
