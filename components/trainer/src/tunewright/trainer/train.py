"""Training: read the job, load, train step by step, save. Each step of it has a name below."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunewright.contracts.datasets import DatasetManifest, verify_cache
from tunewright.contracts.errors import InvalidExperiment
from tunewright.contracts.experiment import ExperimentSpec
from tunewright.contracts.experiment_file import parse_spec
from tunewright.contracts.files import write_json_atomically
from tunewright.contracts.jobs import JobSpec
from tunewright.contracts.plugins import PluginHost, load_entry
from tunewright.contracts.provenance import TrainingSummary
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.spec import digest_of
from tunewright.contracts.timestamps import utc_now
from tunewright.trainer.api import ModelContext, TrainerVariant
from tunewright.trainer.batches import StepPlan, StepPlanner, flatten
from tunewright.trainer.checkpoints import (
    TrainingIdentity,
    barrier,
    find_checkpoint,
    load_weights,
    restore_state,
    save_checkpoint,
)
from tunewright.trainer.errors import TrainingDiverged
from tunewright.trainer.facts import hardware_facts, installed_packages
from tunewright.trainer.loss import keeps_sequences_apart, summed_loss, takes_positions
from tunewright.trainer.metrics import MetricsLog
from tunewright.trainer.optimization import make_optimizer, make_schedule, trained_parameters
from tunewright.trainer.processes import ProcessPlace
from tunewright.trainer.randomness import be_deterministic, seed_everything
from tunewright.trainer.sequences import CachedSequences, read_packing

Say = Callable[[str], None]


@dataclass(frozen=True)
class Setting:
    """What a run is made of, once it is read and checked."""

    job: JobSpec
    spec: ExperimentSpec
    run: RunDir
    manifest: DatasetManifest
    variant: TrainerVariant
    context: ModelContext
    identity: TrainingIdentity
    place: ProcessPlace
    host: PluginHost
    say: Say


@dataclass
class Training:
    """The moving parts."""

    accelerator: Any
    model: torch.nn.Module
    """As the variant gave it; `wrapped` is the same in the strategy's clothes."""

    wrapped: torch.nn.Module
    optimizer: Any
    schedule: Any
    planner: StepPlanner
    sequences: CachedSequences
    keeps_positions: bool
    step: int = 0
    """Optimizer steps done."""

    tokens: int = 0
    elapsed_seconds: float = 0.0
    last_loss: float | None = None


def read_setting(job: JobSpec, place: ProcessPlace, say: Say) -> Setting:
    """Check the job's dataset by digest, find its variant, parse its options."""
    spec = job.experiment
    if spec is None or job.dataset is None or job.model is None:
        raise InvalidExperiment("job.json: is no training job: it has no experiment, dataset or model")
    host = PluginHost.discover()
    info = host.variants.get(spec.training.variant, "training.variant")
    options = parse_spec(info.options_type, dict(spec.training.options), "job.json", "training.options")
    cache = Path(job.dataset.path)
    if place.is_main:
        verify_cache(cache)  # every byte, before any is trained on
    barrier()
    from tunewright.contracts.datasets import read_manifest

    run = RunDir(Path(job.run_dir))
    context = ModelContext(job.model, spec.model, spec.seed, options, run.path / "base_model", place.is_main)
    identity = TrainingIdentity(
        info.name, digest_of(spec.to_document()), job.dataset.digest, place.num_processes
    )
    variant: TrainerVariant = load_entry(info.entry, host.variants.owner_of(info.name))()
    return Setting(job, spec, run, read_manifest(cache), variant, context, identity, place, host, say)


def set_up(setting: Setting) -> Training:
    """Load the model, dress it for its strategy, and go on from the newest checkpoint if there is one."""
    from accelerate import Accelerator

    spec, place = setting.spec, setting.place
    found = find_checkpoint(setting.run, setting.identity, place)
    precision = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[spec.model.dtype]
    on_gpu = torch.cuda.is_available()
    accelerator = Accelerator(cpu=not on_gpu, mixed_precision=precision)
    model = setting.variant.load(setting.context)
    _refuse_nothing_to_train(model)
    if found:
        setting.variant.load_trained_state(model, load_weights(found[0]))
    if spec.training.activation_checkpointing:
        _checkpoint_activations(model)
    model.train()
    optimizer = make_optimizer(model, spec.training)
    sequences, packing = _read_sequences(setting)
    wrapped, prepared = accelerator.prepare(model, optimizer)
    apart = keeps_sequences_apart(accelerator.unwrap_model(wrapped), setting.manifest.vocabulary_size, accelerator.device)
    if not apart:
        setting.say("this model does not keep packed sequences apart: each conversation gets a forward pass of its own")
    planner = StepPlanner(spec, sequences, packing, place.num_processes, None if apart else 1)
    schedule = make_schedule(prepared, spec.training, planner.num_steps)
    training = Training(
        accelerator, accelerator.unwrap_model(wrapped), wrapped, prepared, schedule, planner, sequences, takes_positions(model)
    )
    # Everything above may have drawn random numbers; from here on the draws are the training's.
    seed_everything(spec.seed, place.rank)
    if found:
        directory, manifest = found
        restore_state(directory, manifest, prepared, schedule, place, spec.seed)
        training.step = manifest.step
        training.tokens = int(manifest.position["tokens"])
        training.elapsed_seconds = float(manifest.position["elapsed_seconds"])
        setting.say(f"going on from {directory.name}")
        if manifest.num_processes != place.num_processes:
            setting.say(f"it was written by {manifest.num_processes} processes, this is {place.num_processes}: "
                        "the data go on exactly, the numbers to rounding")  # fmt: skip
    return training


def _refuse_nothing_to_train(model: torch.nn.Module) -> None:
    assert trained_parameters(model), "the variant froze every parameter: nothing would be trained"


def _checkpoint_activations(model: torch.nn.Module) -> None:
    inner: Any = model
    if hasattr(inner, "enable_input_require_grads"):
        inner.enable_input_require_grads()  # frozen embeddings would cut the graph of recomputed blocks
    inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _read_sequences(setting: Setting) -> tuple[CachedSequences, list[list[int]] | None]:
    assert setting.job.dataset is not None
    cache = Path(setting.job.dataset.path)
    packing = read_packing(cache, setting.manifest) if setting.spec.dataset.packing else None
    return CachedSequences(cache, setting.manifest), packing


def describe(setting: Setting, training: Training) -> None:
    """Answer the first questions anyone asks of a run."""
    spec, planner, say = setting.spec, training.planner, setting.say
    total = sum(parameter.numel() for parameter in training.model.parameters())
    learning = sum(parameter.numel() for parameter in trained_parameters(training.model))
    say(f"variant {setting.identity.variant}: {learning:,} of {total:,} parameters learn ({learning / total:.2%})")
    items = "packed rows" if spec.dataset.packing else "conversations"
    say(
        f"{training.sequences.num_rows:,} conversations in {planner.num_items:,} {items}, "
        f"{training.sequences.tokens_per_row.sum():,} tokens, {training.sequences.targets_per_row.sum():,} of them trained"
    )
    say(
        f"batch {spec.training.batch_size} = micro-batch {spec.training.micro_batch_size} x processes "
        f"{setting.place.num_processes} x accumulation {spec.accumulation_steps}"
    )
    say(f"{planner.num_steps} steps, {planner.steps_per_epoch} an epoch, on {training.accelerator.device}")


def train_step(setting: Setting, training: Training, plan: StepPlan) -> tuple[float, float]:
    """One optimizer step. Gives the mean loss over all its trained tokens and the gradient's norm before clipping."""
    accelerator, rank = training.accelerator, setting.place.rank
    num_targets = max(plan.num_targets, 1)
    total = torch.zeros((), dtype=torch.float64)
    for number, one_round in enumerate(plan.passes):
        is_last = number == len(plan.passes) - 1
        rows, weight = one_round[rank], 1.0
        if not rows:  # nothing left for this process: it computes along, so that all synchronize, and adds nothing
            rows, weight = one_round[0], 0.0
        batch = flatten([training.sequences[row] for row in rows]).to(accelerator.device)
        with nullcontext() if is_last else accelerator.no_sync(training.wrapped):
            with accelerator.autocast():
                loss_sum = summed_loss(training.wrapped, batch, training.keeps_positions) * weight
            # DDP takes the mean over processes; the loss is the mean over tokens, wherever they are.
            accelerator.backward(loss_sum * (setting.place.num_processes / num_targets))
        total += loss_sum.detach().cpu().double()
    loss = accelerator.reduce(total.to(torch.float64), reduction="sum").item() / num_targets
    norm = _clip(setting, training)
    _refuse_divergence(training.step + 1, loss, norm)
    training.optimizer.step()
    training.schedule.step()
    training.optimizer.zero_grad(set_to_none=True)
    return loss, norm


def _clip(setting: Setting, training: Training) -> float:
    limit = setting.spec.training.max_grad_norm or math.inf
    norm = training.accelerator.clip_grad_norm_(trained_parameters(training.model), limit)
    return float(norm)


def _refuse_divergence(step: int, loss: float, norm: float) -> None:
    if math.isfinite(loss) and math.isfinite(norm):
        return
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
    raise TrainingDiverged(
        f"step {step}: {what}; the step was not taken",
        "a lower learning_rate, a longer warmup_ratio or a smaller max_grad_norm may help; check the data of this step",
    )


def train(setting: Setting, training: Training) -> None:
    """Every step that is left, with metrics and checkpoints on the way."""
    planner, is_main = training.planner, setting.place.is_main
    log = MetricsLog(setting.run.metrics, training.step) if is_main else None
    started, window_started, window_tokens = time.monotonic() - training.elapsed_seconds, time.monotonic(), 0
    while training.step < planner.num_steps:
        plan = planner.plan(training.step)
        learning_rate = training.optimizer.param_groups[0]["lr"]
        loss, norm = train_step(setting, training, plan)
        training.step += 1
        training.tokens += plan.num_tokens
        training.last_loss = loss
        window_tokens += plan.num_tokens
        is_last = training.step == planner.num_steps
        if training.step % setting.spec.training.log_every_steps == 0 or is_last:
            now = time.monotonic()
            line = {
                "step": training.step,
                "max_steps": planner.num_steps,
                "epoch": round(training.step / planner.steps_per_epoch, 4),
                "loss": loss,
                "learning_rate": learning_rate,
                "grad_norm": norm,
                "tokens": training.tokens,
                "tokens_per_second": round(window_tokens / max(now - window_started, 1e-9), 1),
                "padding_ratio": 0.0,  # sequences lie one behind the other: there is no padding
                "elapsed_seconds": round(now - started, 3),
            }
            window_started, window_tokens = now, 0
            if log:
                log.write(line)
                setting.say(
                    f"step {training.step}/{planner.num_steps}  loss {loss:.4f}  lr {learning_rate:.2e}  "
                    f"grad norm {norm:.3f}  {line['tokens_per_second']:,.0f} tokens/s"
                )
        training.elapsed_seconds = time.monotonic() - started
        if _is_checkpoint_step(setting.spec, training.step, planner):
            _save(setting, training)


def _is_checkpoint_step(spec: ExperimentSpec, step: int, planner: StepPlanner) -> bool:
    every = spec.checkpoint.every_steps or planner.steps_per_epoch
    return step % every == 0 or step == planner.num_steps


def _save(setting: Setting, training: Training) -> None:
    position = {
        "epoch": training.step // training.planner.steps_per_epoch,
        "step_in_epoch": training.step % training.planner.steps_per_epoch,
        "tokens": training.tokens,
        "elapsed_seconds": round(training.elapsed_seconds, 3),
    }
    reference = save_checkpoint(
        setting.run, training.step, setting.identity, position, setting.variant.trained_state(training.model),
        training.optimizer, training.schedule, setting.place, setting.spec.checkpoint.keep_last,
    )  # fmt: skip
    if reference is None:
        return
    setting.say(f"saved {Path(reference.path).name}")
    for complaint in setting.host.notify("tunewright_checkpoint_saved", checkpoint=reference, job=setting.job):
        setting.say(complaint)


def start_summary(setting: Setting) -> TrainingSummary:
    """What is known before the first step, written at once: a killed run still says what it ran on."""
    seeds = seed_everything(setting.spec.seed, setting.place.rank)
    determinism = be_deterministic(torch.cuda.is_available())
    if setting.place.num_processes > 1:
        determinism["not_deterministic"].append("another number of processes sums in another order")
    summary = TrainingSummary(
        started_at=utc_now(),
        seeds=seeds,
        determinism=determinism,
        hardware=hardware_facts(),
        packages=installed_packages(),
        python=".".join(map(str, __import__("sys").version_info[:3])),
        num_processes=setting.place.num_processes,
        plugins=setting.host.versions,
    )
    write_summary(setting, summary)
    return summary


def write_summary(setting: Setting, summary: TrainingSummary) -> None:
    """Replace `training.json`; rank 0 does."""
    if setting.place.is_main:
        write_json_atomically(setting.run.training, summary.to_document())


def speaker(place: ProcessPlace) -> Say:
    """Prints lines on rank 0, at once."""

    def say(text: str) -> None:
        if place.is_main:
            print(text, flush=True)

    return say


def quiet_libraries() -> None:
    """Libraries ask for nothing over the network and leave the log to us."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
