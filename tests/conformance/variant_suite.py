"""What every training variant must do. Inherit `VariantConformance`, name the variant, and say what it trains.

class TestMyVariant(VariantConformance):
    variant_name = "mine"
    options = {"rank": 4}

    def is_trained(self, name: str) -> bool:
        return "lora_" in name

    def load_final(self, directory: Path) -> torch.nn.Module:
        return AutoModelForCausalLM.from_pretrained(directory)
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from pydantic import ValidationError

from conformance.tiny_jobs import (
    make_cache,
    make_conversations,
    make_job,
    make_model,
    make_pairs,
    metrics_of,
    model_bytes,
    save_weights,
)
from tunewright.contracts.files import write_json_atomically
from tunewright.contracts.plugins import PluginHost, options_type_of
from tunewright.contracts.registry import API_VERSION
from tunewright.trainer.api import ModelContext, TrainerVariant
from tunewright.trainer.job import open_job, read_job
from tunewright.trainer.session import Session, build_model, load_variant, make_context, open_session, transformer_of
from tunewright.trainer.step import run_step
from tunewright.trainer.strategies.choosing import start_engine
from tunewright.trainer.training import run_training

_HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")


class VariantConformance:
    """The suite. Each test makes its own small model and data."""

    variant_name: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}

    sequences_per_example: ClassVar[int] = 1
    """What it trains on: 1, conversations; 2, pairs of a chosen and a rejected one."""

    def is_trained(self, name: str) -> bool:
        """Whether the parameter called `name` must be trained."""
        raise NotImplementedError

    def load_final(self, directory: Path) -> torch.nn.Module:
        """Load what `save_final` wrote, as a user would."""
        raise NotImplementedError

    @pytest.fixture
    def job(self, tmp_path: Path) -> Path:
        """A job of this variant, on pretrained weights."""
        model = make_model(tmp_path / "model")
        save_weights(model)
        return self.make(tmp_path, model, weights="pretrained")

    def make(self, root: Path, model: Path, **arguments: Any) -> Path:
        """A job of this variant on `model`."""
        examples = make_conversations(10) if self.sequences_per_example == 1 else make_pairs(10)
        cache = make_cache(root / "cache", examples, sequences_per_example=self.sequences_per_example)
        return make_job(
            root, model, cache, variant=self.variant_name, options=self.options, num_epochs=2,
            checkpoint={"every": "epoch", "keep_last": 5}, **arguments,
        )  # fmt: skip

    @pytest.fixture
    def session(self, job: Path) -> Any:
        """That job, ready for its first step."""
        opened = open_job(job)
        engine = start_engine(opened.experiment)
        yield open_session(opened, engine)
        engine.close()

    def test_it_is_registered_for_this_api_with_a_summary_and_ddp(self) -> None:
        info = PluginHost.discover().variants.get(self.variant_name)
        assert info.api == API_VERSION
        assert info.summary
        assert "ddp" in info.strategies
        assert info.conversations_per_row == self.sequences_per_example

    def test_registering_imports_nothing_heavy(self) -> None:
        program = (
            "import sys\nfrom tunewright.contracts.plugins import PluginHost, options_type_of\n"
            f"options_type_of(PluginHost.discover().variants.get({self.variant_name!r})).model_validate({{}})\n"
            f"found = [name for name in {_HEAVY!r} if name in sys.modules]\n"
            "assert not found, found"
        )
        subprocess.run([sys.executable, "-c", program], check=True)

    def test_options_have_defaults_that_are_plain_data_and_unknown_keys_are_refused(self) -> None:
        options_type = options_type_of(PluginHost.discover().variants.get(self.variant_name))
        document = options_type.model_validate({}).to_document()
        assert options_type.model_validate(document).to_document() == document
        with pytest.raises(ValidationError):
            options_type.model_validate({"no_such_option": 1})

    def test_the_class_keeps_the_protocol(self, job: Path) -> None:
        assert isinstance(load_variant(open_job(job)), TrainerVariant)

    def test_exactly_the_right_parameters_require_a_gradient_and_they_are_float32(self, session: Session) -> None:
        parameters = dict(session.trained.model.named_parameters())
        trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
        assert trained == {name for name in parameters if self.is_trained(name)}
        assert trained
        assert {parameters[name].dtype for name in trained} == {torch.float32}

    def test_a_step_changes_what_is_trained_and_nothing_else(self, session: Session) -> None:
        before = {name: one.detach().clone() for name, one in session.trained.model.named_parameters()}
        run_step(session)
        run_step(session)
        for name, parameter in session.trained.model.named_parameters():
            changed = not torch.equal(parameter, before[name])
            assert changed == self.is_trained(name), name

    def test_building_it_twice_gives_the_same_bits(self, job: Path) -> None:
        first, second = self.build(job), self.build(job)
        for (name, one), other in zip(first.named_parameters(), second.parameters(), strict=True):
            assert torch.equal(one, other), name

    def test_gradients_are_the_same_after_a_pass_in_evaluation_mode(self, session: Session) -> None:
        run_step(session)
        before = self.gradients(session)
        model = session.trained.model.eval()
        with torch.no_grad():
            model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=False)
        model.train()
        after = self.gradients(session)
        assert before.keys() == after.keys()
        for name, gradient in before.items():
            assert torch.equal(gradient, after[name]), name

    def gradients(self, session: Session) -> dict[str, torch.Tensor]:
        """Gradients of one fixed batch by parameter. Dropout, where there is any, draws the same each time."""
        torch.manual_seed(3)
        ids = torch.arange(3, 15)[None]
        logits = session.trained.model(input_ids=ids, use_cache=False).logits
        logits.float().logsumexp(-1).sum().backward()
        found = {n: p.grad.clone() for n, p in session.trained.model.named_parameters() if p.grad is not None}
        session.trained.model.zero_grad()
        return found

    def test_the_final_model_loads_and_computes_what_was_trained(self, session: Session, tmp_path: Path) -> None:
        run_step(session)
        run_step(session)
        directory = tmp_path / "final"
        directory.mkdir()
        variant, model = session.trained.variant, session.trained.model
        wanted = {name for name, one in model.state_dict(keep_vars=True).items() if variant.is_saved(name, one)}
        weights = session.engine.model_state(model, wanted.__contains__)
        variant.save_final(model, directory, session.context, weights)
        assert list(directory.glob("*.safetensors"))
        assert not list(directory.glob("*.bin"))
        self.check_final(session.trained.model, self.load_final(directory))

    def check_final(self, trained: torch.nn.Module, loaded: torch.nn.Module) -> None:
        """Compare the trained model with the loaded one."""
        assert torch.allclose(logits_of(trained), logits_of(loaded), atol=1e-5)

    def test_a_run_that_goes_on_from_a_checkpoint_ends_with_the_same_bytes(self, tmp_path: Path) -> None:
        model = make_model(tmp_path / "model", attention_dropout=0.1)
        whole = self.make(tmp_path, model)
        run_training(open_job(whole))
        resumed = cut_short(whole, tmp_path / "runs" / "resumed", keep="step-000003")
        run_training(open_job(resumed))
        assert model_bytes(resumed) == model_bytes(whole)
        assert [line["loss"] for line in metrics_of(resumed)] == [line["loss"] for line in metrics_of(whole)]

    def test_random_weights_are_decided_by_the_seed(self, tmp_path: Path) -> None:
        model = make_model(tmp_path / "model")
        one = self.build(self.make(tmp_path / "a", model, seed=1))
        same = self.build(self.make(tmp_path / "b", model, seed=1))
        other = self.build(self.make(tmp_path / "c", model, seed=2))
        assert torch.equal(embeddings_of(one), embeddings_of(same))
        assert not torch.equal(embeddings_of(one), embeddings_of(other))

    def build(self, job: Path) -> torch.nn.Module:
        """The model of `job`, before its first step."""
        opened = open_job(job)
        engine = start_engine(opened.experiment)
        try:
            context: ModelContext = make_context(opened, engine)
            built: torch.nn.Module = build_model(load_variant(opened), context)
            return built
        finally:
            engine.close()


class AdapterConformance(VariantConformance):
    """The suite for variants that train LoRA adapters and save them in peft's format."""

    def is_trained(self, name: str) -> bool:
        """The adapters, and nothing beneath them."""
        return "lora_" in name

    def load_final(self, directory: Path) -> torch.nn.Module:
        """The adapters on the base they name."""
        model: torch.nn.Module = AutoPeftModelForCausalLM.from_pretrained(directory)
        return model


def cut_short(job: Path, run_dir: Path, keep: str) -> Path:
    """A copy of `job`'s run as if it had been killed after checkpoint `keep`; its `job.json`."""
    shutil.copytree(job.parent, run_dir, ignore=shutil.ignore_patterns("model", "provenance.json"))
    for checkpoint in (run_dir / "checkpoints").iterdir():
        if checkpoint.name != keep:
            shutil.rmtree(checkpoint)
    document = read_job(job).model_copy(update={"run": run_dir.name, "run_dir": str(run_dir)})
    write_json_atomically(run_dir / "job.json", document.to_document())
    return run_dir / "job.json"


@torch.no_grad()
def logits_of(model: torch.nn.Module) -> torch.Tensor:
    """Logits of a fixed sequence."""
    logits: torch.Tensor = model.eval()(input_ids=torch.arange(3, 20)[None], use_cache=False).logits
    return logits


def embeddings_of(model: torch.nn.Module) -> torch.Tensor:
    """The input embeddings: never quantized, drawn with the other random weights."""
    weight: torch.Tensor = transformer_of(model).get_input_embeddings().weight
    return weight
