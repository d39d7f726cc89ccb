"""Everything one process holds while it trains, and how it is put together."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from tunewright.contracts.datasets import DatasetManifest
from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.contracts.plugins import load_entry
from tunewright.trainer.api import ModelContext, TrainerVariant
from tunewright.trainer.checkpoints.random_states import process_seed, seed_everything
from tunewright.trainer.checkpoints.saving import Trained
from tunewright.trainer.computing.assembling import ModelAsCalled, call_model, try_model
from tunewright.trainer.computing.isolation import keeps_sequences_apart
from tunewright.trainer.computing.language_model import LanguageModel
from tunewright.trainer.dataset import DataOrder, TokenDataset
from tunewright.trainer.embeddings import grow_embeddings, refuse_frozen_embeddings
from tunewright.trainer.evaluation.rows import EvaluationRows, open_evaluation_rows, split_rows
from tunewright.trainer.evaluation.stopping import Standing
from tunewright.trainer.feeding import StepFeed
from tunewright.trainer.job import TrainingJob, read_verified_manifest
from tunewright.trainer.objectives.objective import Beginning, Objective
from tunewright.trainer.optimization import make_optimizer, make_scheduler, trained_parameters
from tunewright.trainer.strategies.engine import Engine
from tunewright.trainer.timing import PhaseClock

if TYPE_CHECKING:
    from tunewright.trainer.observers import Observer


@dataclass
class Progress:
    """Where the run stands. All of it is in each checkpoint."""

    step: int = 0
    """Optimizer steps done."""

    tokens: int = 0
    """Tokens seen."""

    elapsed_seconds: float = 0.0
    """Time spent training, over all attempts."""

    first_loss: float | None = None
    last_loss: float | None = None

    best_evaluation_loss: float | None = None
    best_evaluation_step: int | None = None
    evaluations_since_best: int = 0
    """Evaluations since the best one: what early stopping counts."""

    evaluated_on: str | None = None
    """`EvaluationRows.name` of those evaluations."""

    @property
    def standing(self) -> Standing:
        """How the evaluations have gone so far."""
        return Standing(self.best_evaluation_loss, self.best_evaluation_step, self.evaluations_since_best)

    def take(self, standing: Standing) -> None:
        """Note how they have gone now."""
        for name, value in vars(standing).items():
            setattr(self, name, value)


@dataclass
class Session:
    """One process's share of a training."""

    job: TrainingJob
    engine: Engine
    manifest: DatasetManifest
    dataset: TokenDataset
    order: DataOrder
    context: ModelContext
    trained: Trained
    objective: Objective
    called: ModelAsCalled
    """How it is computed, and at what cost."""

    sequences_apart: bool
    """Whether several conversations can share a forward pass."""

    max_steps: int
    """Optimizer steps of the whole run."""

    evaluation: EvaluationRows | None = None
    """What it is evaluated on. None: nothing."""

    progress: Progress = field(default_factory=Progress)
    observers: Sequence[Observer] = ()
    """What watches the training; empty but on the main process."""

    feed: StepFeed = field(init=False)
    """What each step computes."""

    phases: PhaseClock = field(init=False)
    """Where the time goes."""

    def __post_init__(self) -> None:
        self.feed, self.phases = StepFeed(self), PhaseClock(self.engine.device)

    @property
    def model(self) -> LanguageModel:
        """The model as it is called: wrapped for mixed precision and for several processes."""
        return self.called.model

    @property
    def keeps_best(self) -> bool:
        """Whether the checkpoint with the lowest evaluation loss is kept, and the model written from it."""
        evaluation = self.job.experiment.evaluation
        return evaluation is not None and evaluation.keep_best

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters that are trained."""
        return trained_parameters(self.trained.model)


def load_variant(job: TrainingJob) -> TrainerVariant:
    """The job's variant with its options."""
    owner = job.host.variants.owner_of(job.variant.name)
    variant: TrainerVariant = load_entry(job.variant.entry, owner)(job.options)
    return variant


def make_context(job: TrainingJob, engine: Engine, vocabulary_size: int | None = None) -> ModelContext:
    """What the variant may know. `vocabulary_size` is the tokenizer's, by the dataset."""
    return ModelContext(
        spec=job.experiment.model,
        reference=job.model,
        seed=job.experiment.seed,
        device=engine.loading_device,
        training_device=engine.device,
        vocabulary_size=vocabulary_size,
        computed_in=engine.computed_in,
        run_dir=job.run_dir.path,
        is_main=engine.is_main,
        barrier=engine.barrier,
    )


def build_model(variant: TrainerVariant, context: ModelContext) -> Any:
    """The model that is trained, every draw decided by the experiment's seed.

    Raises InvalidExperiment where its tokenizer has more tokens than it has embeddings, unless they may grow and are
    trained.
    """
    hush_libraries()
    seed_everything(context.seed)
    model = variant.load_model(context)
    has_grown = context.vocabulary_size is not None and grow_embeddings(model, context.vocabulary_size, context.spec)
    torch.manual_seed(context.seed)
    prepared = variant.prepare_model(model, context)
    if has_grown:
        refuse_frozen_embeddings(transformer_of(prepared))
    return prepared


def open_session(job: TrainingJob, engine: Engine) -> Session:
    """Load data and model, try the model out, wrap it. The random state afterwards is the first step's."""
    manifest, experiment = read_verified_manifest(job), job.experiment
    training = experiment.training
    context, variant = make_context(job, engine, manifest.vocabulary_size), load_variant(job)
    objective = variant.make_objective(context)
    refuse_other_examples(job, objective, manifest)
    dataset = TokenDataset(job.dataset, manifest, experiment.dataset.packing, objective.sequences_per_example)
    split = split_rows(job, dataset)
    evaluation = open_evaluation_rows(job, dataset, split)
    num_rows, selected = (len(dataset), None) if split is None else (len(split.trained), split.trained)
    order = DataOrder(num_rows, training.batch_size, experiment.seed, selected)
    model = build_model(variant, context)
    transformer = transformer_of(model)
    trial = try_model(model, transformer, context)
    if training.activation_checkpointing:
        transformer.activation_checkpointing_enable()
    wrapped = engine.prepare(model, lambda parameters_of: make_optimizer(parameters_of, training))
    apart = keeps_sequences_apart(wrapped, transformer.config.vocab_size, engine.device, context.dtype)
    max_steps = training.max_steps or (training.num_epochs or 1) * order.steps_per_epoch
    scheduler = make_scheduler(engine.optimizer, training, max_steps)
    called = call_model(wrapped, transformer, trial, engine, experiment)
    session = Session(
        job, engine, manifest, dataset, order, context, Trained(variant, model, scheduler), objective, called,
        apart, max_steps, evaluation,
    )  # fmt: skip
    objective.begin(make_beginning(session))
    seed_everything(process_seed(experiment.seed, engine.rank))
    return session


def make_beginning(session: Session) -> Beginning:
    """What the objective may use before the first step."""
    job, engine = session.job, session.engine
    assert job.job.dataset is not None
    identity = {
        "model": job.experiment.model.to_document(),
        "reference": job.model.to_document(),
        "seed": job.experiment.seed,
        "variant": job.variant.name,
        "options": job.options.to_document(),
    }
    if engine.computed_in != job.experiment.model.dtype:
        identity["computed_in"] = engine.computed_in
    return Beginning(
        model=session.model,
        dataset=session.dataset,
        device=engine.device,
        rank=engine.rank,
        num_processes=engine.num_processes,
        gather=engine.gather_objects,
        dataset_digest=job.job.dataset.digest,
        model_identity=identity,
        cache_root=job.dataset.parent,
        run_dir=job.run_dir.path,
        sequences_apart=session.sequences_apart,
        say=lambda line: print(line, flush=True) if engine.is_main else None,
        evaluation_dataset=session.evaluation.own_dataset if session.evaluation else None,
        evaluation_dataset_digest=session.evaluation.digest if session.evaluation else None,
    )


def refuse_other_examples(job: TrainingJob, objective: Objective, manifest: DatasetManifest) -> None:
    """Raise InvalidExperiment where the variant trains on other examples than the dataset's, or than an option's."""
    wanted, found = objective.sequences_per_example, manifest.sequences_per_example
    if wanted != found:
        words = {1: "conversations", 2: "pairs of a chosen and a rejected answer"}
        message = f"variant `{job.variant.name}` trains on {words[wanted]}, the dataset holds {words[found]}"
        hint = 'pairs come from sources with `format = "preference"`'
        raise InvalidExperiment.from_problems(job.experiment.name, [Problem("dataset.mix", message, hint)])
    if wanted == 2 and job.experiment.training.label_smoothing:
        message = f"it spreads the probability of tokens, and variant `{job.variant.name}` trains on none of them alone"
        hint = "the variant's own options are in [training.options]"
        raise InvalidExperiment.from_problems(job.experiment.name, [Problem("training.label_smoothing", message, hint)])


def transformer_of(model: torch.nn.Module) -> Any:
    """The transformers model inside `model`, beneath whatever adapters wrap it."""
    from transformers import PreTrainedModel

    return next(module for module in model.modules() if isinstance(module, PreTrainedModel))


def hush_libraries() -> None:
    """No progress bars and no advice from libraries: the log is ours."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
