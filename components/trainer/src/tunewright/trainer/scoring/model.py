"""The model that is measured: as it was saved, adapters on their base, in `model.dtype` and evaluation mode."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tunewright.contracts.jobs import ModelReference
from tunewright.trainer.computing.isolation import keeps_sequences_apart
from tunewright.trainer.computing.language_model import LanguageModel, takes_positions_to_keep
from tunewright.trainer.computing.loss_head import find_loss_head
from tunewright.trainer.computing.precision import computed_dtype
from tunewright.trainer.embeddings import grow_embeddings
from tunewright.trainer.job import TrainingJob
from tunewright.trainer.lean_imports import import_bitsandbytes
from tunewright.trainer.model_loading import ModelContext, load_base_model
from tunewright.trainer.session import hush_libraries, transformer_of


@dataclass(frozen=True)
class ScoredModel:
    """A model that is measured, and what is needed to call it."""

    model: Any
    """A PreTrainedModel, or peft's wrapper of one: it gives losses, and generates."""

    language: LanguageModel
    """The same, as losses are computed with it."""

    tokenizer: Any
    own_ends: frozenset[int]
    """The tokens that end what it generates, by its own `generation_config.json`."""

    sequences_apart: bool
    """Whether several rows can share a forward pass."""

    device: torch.device

    @property
    def max_positions(self) -> int | None:
        """Tokens that the model has positions for, where it says so."""
        most = getattr(transformer_of(self.model).config.get_text_config(), "max_position_embeddings", None)
        return int(most) if most else None

    @property
    def num_parameters(self) -> int:
        """All parameters, adapters included."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def load_scored_model(job: TrainingJob, device: torch.device, vocabulary_size: int) -> ScoredModel:
    """The job's model. `vocabulary_size`: tokens of the dataset's tokenizer.

    Raises InvalidExperiment for weights that lack tensors, and for a tokenizer with more tokens than embeddings.
    """
    hush_libraries()
    computed_in = computed_dtype(job.experiment.model.dtype, "ddp", device)  # each process has a whole model
    context = ModelContext(
        job.experiment.model, job.model, job.experiment.seed, device, job.run_dir.path, computed_in=computed_in
    )
    model = _load(context, vocabulary_size).requires_grad_(False)
    transformer = transformer_of(model)
    # A loss without logits of the whole vocabulary, where the model allows that: the trial wants a gradient.
    head, _ = find_loss_head(model, transformer, device, context.dtype)
    apart = keeps_sequences_apart(model, transformer.config.get_text_config().vocab_size, device, context.dtype)
    language = LanguageModel(model, takes_positions_to_keep(transformer), head=head)
    model.eval()
    return ScoredModel(model, language, _tokenizer(job.model), _take_generation_config(transformer), apart, device)


def _take_generation_config(transformer: Any) -> frozenset[int]:
    """Take from the model how it was saved to be sampled: ours alone count. Gives the tokens that end answers."""
    from transformers import GenerationConfig

    ends = transformer.generation_config.eos_token_id
    transformer.generation_config = GenerationConfig()
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])


def adapters_of(reference: ModelReference) -> Path | None:
    """The directory, where the model is adapters."""
    directory = Path(reference.name_or_path)
    return directory if (directory / "adapter_config.json").is_file() else None


def _load(context: ModelContext, vocabulary_size: int) -> Any:
    adapters = adapters_of(context.reference)
    if adapters is None:
        return _load_whole(context, vocabulary_size)
    import_bitsandbytes()
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(str(adapters))
    base = ModelReference(name_or_path=config.base_model_name_or_path, revision=config.revision)
    whole = _load_whole(replace(context, reference=base), vocabulary_size)
    return PeftModel.from_pretrained(whole, str(adapters))


def _load_whole(context: ModelContext, vocabulary_size: int) -> Any:
    arguments = {} if context.spec.weights == "random" else {"dtype": context.dtype}
    model = load_base_model(context, **arguments)
    grow_embeddings(model, vocabulary_size, context.spec)
    return model.to(context.dtype)


def _tokenizer(reference: ModelReference) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(reference.name_or_path, revision=reference.revision, trust_remote_code=False)
