"""What is estimated: an experiment that nobody has launched, or the job of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunewright.contracts.datasets import DatasetManifest, read_manifest
from tunewright.contracts.errors import NotFound, TunewrightError, UsageError
from tunewright.contracts.experiment import ExperimentSpec
from tunewright.contracts.experiment_file import load_experiment, resolve_model
from tunewright.contracts.jobs import JobSpec, ModelReference
from tunewright.contracts.plugins import PluginHost, load_entry
from tunewright.contracts.variants import VariantInfo
from tunewright.trainer.dataset import TokenDataset
from tunewright.trainer.job import dataset_directory, parse_options, read_job

JOB_FILE = "job.json"


@dataclass(frozen=True)
class Subject:
    """An experiment with its model and variant, and the dataset where it is prepared."""

    experiment: ExperimentSpec
    model: ModelReference
    info: VariantInfo
    host: PluginHost
    dataset: TokenDataset | None
    """None: not prepared, or not on this machine. Rows are then taken to be as long as they may be."""

    manifest: DatasetManifest | None
    """Of that dataset."""

    run_dir: Path | None
    """Of the run whose job it is."""

    def make_variant(self) -> object:
        """The variant with its options: a TrainerVariant."""
        variant: object = load_entry(self.info.entry, self.host.variants.owner_of(self.info.name))(
            parse_options(self.info, self.experiment)
        )
        return variant

    @property
    def row_tokens(self) -> float:
        """Tokens of a row that a step takes, on average; the most it may have where the dataset is not known."""
        if self.manifest is None or self.dataset is None:
            return float(self.experiment.dataset.max_length_tokens)
        return self.manifest.tokens / max(1, len(self.dataset))

    @property
    def longest_row_tokens(self) -> int:
        """The most a row has. A packed row may be full."""
        if self.dataset is None or self.experiment.dataset.packing:
            return self.experiment.dataset.max_length_tokens
        rows = (self.dataset.sequences_of(row) for row in range(len(self.dataset)))
        return max(sum(len(sequence.ids) for sequence in row) for row in rows)

    @property
    def trained_share(self) -> float:
        """Share of the tokens that is trained: all of them where the dataset is not known."""
        if self.manifest is None or not self.manifest.tokens:
            return 1.0
        return self.manifest.trained_tokens / self.manifest.tokens

    @property
    def num_steps(self) -> int | None:
        """Optimizer steps of the run. None where they follow from a dataset that is not known."""
        training = self.experiment.training
        if training.max_steps:
            return training.max_steps
        if self.dataset is None:
            return None
        return (training.num_epochs or 1) * -(-len(self.dataset) // training.batch_size)


def find_subject(path: Path) -> Subject:
    """The experiment file, `job.json` or run at `path`. Raises NotFound and what reading them raises."""
    if path.is_dir():
        path = path / JOB_FILE
    if path.suffix == ".toml":
        loaded = load_experiment(path)
        model = resolve_model(loaded.spec.model, loaded.project_root, loaded.home, with_digest=False)
        return _subject(loaded.spec, model, None)
    job = read_job(path)
    if job.experiment is None or job.model is None:
        raise NotFound(f"{path}: is no training", "give an experiment file, a run, or its job.json")
    return _subject(job.experiment, job.model, job)


def _subject(experiment: ExperimentSpec, model: ModelReference, job: JobSpec | None) -> Subject:
    if experiment.job != "train":
        raise UsageError(f'{experiment.name}: is no training but `job = "{experiment.job}"`: nothing to estimate')
    host = PluginHost.discover()
    info = host.variants.get(experiment.training.variant, "training.variant")
    dataset, manifest = _open_dataset(experiment, job)
    return Subject(experiment, model, info, host, dataset, manifest, Path(job.run_dir) if job else None)


def _open_dataset(
    experiment: ExperimentSpec, job: JobSpec | None
) -> tuple[TokenDataset | None, DatasetManifest | None]:
    """The job's dataset, where this machine has it."""
    if job is None or job.dataset is None:
        return None, None
    directory = dataset_directory(job.dataset)
    try:
        manifest = read_manifest(directory)
    except TunewrightError:
        return None, None
    dataset = TokenDataset(directory, manifest, experiment.dataset.packing, manifest.sequences_per_example)
    return dataset, manifest
