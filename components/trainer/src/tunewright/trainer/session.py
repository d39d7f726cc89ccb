"""Everything one process holds while it trains, and how it is put together."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch

from tunewright.contracts.datasets import DatasetManifest
from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.contracts.plugins import load_entry
from tunewright.trainer.api import ModelContext, TrainerVariant
from tunewright.trainer.checkpoint import Trained
from tunewright.trainer.dataset import DataOrder, TokenDataset
from tunewright.trainer.engine import Engine
from tunewright.trainer.isolation import keeps_sequences_apart
from tunewright.trainer.job import TrainingJob, read_verified_manifest
from tunewright.trainer.loss import takes_positions_to_keep
from tunewright.trainer.optimization import make_optimizer, make_scheduler, trained_parameters
from tunewright.trainer.randomness import process_seed, seed_everything


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
    wrapped: Any
    """The model as it is called: wrapped for mixed precision and for several processes."""

    keeps_positions: bool
    """Whether the model computes logits at chosen positions only."""

    sequences_apart: bool
    """Whether several conversations can share a forward pass."""

    progress: Progress = field(default_factory=Progress)

    @property
    def max_steps(self) -> int:
        """Optimizer steps of the whole run."""
        training = self.job.experiment.training
        return training.max_steps or (training.num_epochs or 1) * self.order.steps_per_epoch

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
        device=engine.device,
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
    dataset = TokenDataset(job.dataset, manifest, experiment.dataset.packing)
    order = DataOrder(len(dataset), experiment.training.batch_size, experiment.seed)
    context, variant = make_context(job, engine), load_variant(job)
    model = build_model(variant, context)
    transformer = transformer_of(model)
    _refuse_small_vocabulary(transformer, manifest)
    apart = keeps_sequences_apart(model, transformer.config.vocab_size, engine.device, context.dtype)
    if experiment.training.activation_checkpointing:
        transformer.activation_checkpointing_enable()
    optimizer = make_optimizer(model, experiment.training)
    wrapped, prepared = engine.prepare(model, optimizer)
    session = Session(
        job, engine, manifest, dataset, order, context, Trained(variant, model, prepared, None), wrapped,
        takes_positions_to_keep(transformer), apart,
    )  # fmt: skip
    scheduler = make_scheduler(optimizer, experiment.training, session.max_steps)
    session.trained = Trained(variant, model, prepared, scheduler)
    seed_everything(process_seed(experiment.seed, engine.rank))
    return session


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
