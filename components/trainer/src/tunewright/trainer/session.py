"""Everything one process holds while it trains, and how it is put together."""

from __future__ import annotations

import os
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
from tunewright.trainer.computing.isolation import keeps_sequences_apart
from tunewright.trainer.computing.language_model import LanguageModel, takes_positions_to_keep
from tunewright.trainer.dataset import DataOrder, TokenDataset
from tunewright.trainer.job import TrainingJob, read_verified_manifest
from tunewright.trainer.objectives.objective import Beginning, Objective
from tunewright.trainer.optimization import make_optimizer, make_scheduler, trained_parameters
from tunewright.trainer.strategies.engine import Engine

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
    model: LanguageModel
    """The model as it is called: wrapped for mixed precision and for several processes."""

    sequences_apart: bool
    """Whether several conversations can share a forward pass."""

    max_steps: int
    """Optimizer steps of the whole run."""

    progress: Progress = field(default_factory=Progress)
    observers: Sequence[Observer] = ()
    """What watches the training; empty but on the main process."""

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters that are trained."""
        return trained_parameters(self.trained.model)


def load_variant(job: TrainingJob) -> TrainerVariant:
    """The job's variant with its options."""
    owner = job.host.variants.owner_of(job.variant.name)
    variant: TrainerVariant = load_entry(job.variant.entry, owner)(job.options)
    return variant


def make_context(job: TrainingJob, engine: Engine) -> ModelContext:
    """What the variant may know."""
    return ModelContext(
        spec=job.experiment.model,
        reference=job.model,
        seed=job.experiment.seed,
        device=engine.loading_device,
        run_dir=job.run_dir.path,
        is_main=engine.is_main,
        barrier=engine.barrier,
    )


def build_model(variant: TrainerVariant, context: ModelContext) -> Any:
    """The model that is trained, every draw decided by the experiment's seed."""
    hush_libraries()
    seed_everything(context.seed)
    model = variant.load_model(context)
    torch.manual_seed(context.seed)
    return variant.prepare_model(model, context)


def open_session(job: TrainingJob, engine: Engine) -> Session:
    """Load data and model, try the model out, wrap it. The random state afterwards is the first step's."""
    manifest, experiment = read_verified_manifest(job), job.experiment
    training = experiment.training
    context, variant = make_context(job, engine), load_variant(job)
    objective = variant.make_objective(context)
    refuse_other_examples(job, objective, manifest)
    dataset = TokenDataset(job.dataset, manifest, experiment.dataset.packing, objective.sequences_per_example)
    order = DataOrder(len(dataset), training.batch_size, experiment.seed)
    model = build_model(variant, context)
    transformer = transformer_of(model)
    _refuse_small_vocabulary(transformer, manifest)
    apart = keeps_sequences_apart(model, transformer.config.vocab_size, context.device, context.dtype)
    if training.activation_checkpointing:
        transformer.activation_checkpointing_enable()
    wrapped = engine.prepare(model, lambda parameters_of: make_optimizer(parameters_of, training))
    max_steps = training.max_steps or (training.num_epochs or 1) * order.steps_per_epoch
    scheduler = make_scheduler(engine.optimizer, training, max_steps)
    language_model = LanguageModel(wrapped, takes_positions_to_keep(transformer), training.label_smoothing)
    session = Session(
        job, engine, manifest, dataset, order, context, Trained(variant, model, scheduler), objective, language_model,
        apart, max_steps,
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
    return Beginning(
        session.model, session.dataset, engine.device, engine.rank, engine.num_processes, engine.gather_objects,
        job.job.dataset.digest, identity, job.dataset.parent,
    )  # fmt: skip


def refuse_other_examples(job: TrainingJob, objective: Objective, manifest: DatasetManifest) -> None:
    """Raise InvalidExperiment where the dataset's examples are not what the variant trains on."""
    wanted, found = objective.sequences_per_example, manifest.sequences_per_example
    if wanted != found:
        words = {1: "conversations", 2: "pairs of a chosen and a rejected answer"}
        message = f"variant `{job.variant.name}` trains on {words[wanted]}, the dataset holds {words[found]}"
        hint = 'pairs come from sources with `format = "preference"`'
        raise InvalidExperiment.from_problems(job.experiment.name, [Problem("dataset.mix", message, hint)])


def transformer_of(model: torch.nn.Module) -> Any:
    """The transformers model inside `model`, beneath whatever adapters wrap it."""
    from transformers import PreTrainedModel

    return next(module for module in model.modules() if isinstance(module, PreTrainedModel))


def _refuse_small_vocabulary(transformer: Any, manifest: DatasetManifest) -> None:
    rows = transformer.get_input_embeddings().num_embeddings
    if manifest.vocabulary_size > rows:
        message = (
            f"its tokenizer gives {manifest.vocabulary_size} different tokens, the model has embeddings for {rows}"
        )
        raise InvalidExperiment.from_problems("the model", [Problem("model.name_or_path", message)])


def hush_libraries() -> None:
    """No progress bars and no advice from libraries: the log is ours."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    if not torch.cuda.is_available():  # to save, transformers imports DeepSpeed, which would warn of that
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
