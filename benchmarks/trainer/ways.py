"""One way to train the workload, in a process of its own; `speed.py` starts it and takes its answer.

    PYTHON -m benchmarks.trainer.ways WAY --work DIRECTORY

The clock starts after the first optimizer step: what a way takes to start, to compile and to warm up is not held
against it. The answer, one JSON document on the last line of stdout, has the seconds of the other steps, their real
tokens, the loss of each step, and the process's peak of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.trainer.workload import SEED, Conversation, Workload, load_workload

# The peers live in a virtual environment of their own and are no dependency of this repository: `import_module`.

LEARNING_RATE = 1e-3
LORA = {"rank": 16, "alpha": 32}
LORA_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass
class Stopwatch:
    """What the steps after the first took."""

    losses: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    _began: tuple[float, float] | None = None

    def step_done(self) -> None:
        """A step was done: the first starts the clock, the others move it on."""
        now = _now()
        if self._began is not None:
            self.cpu_seconds, self.wall_seconds = now[0] - self._began[0], now[1] - self._began[1]
        else:
            self._began = now


def _now() -> tuple[float, float]:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.process_time(), time.monotonic()


def ours(work: Path, watch: Stopwatch) -> None:
    """The trainer's own session and steps."""
    from tunewright.contracts.datasets import CachedDataset
    from tunewright.contracts.environments import CodeOrigin
    from tunewright.contracts.experiment import ExperimentSpec
    from tunewright.contracts.files import write_json_atomically
    from tunewright.contracts.jobs import JobSpec, LaunchOrigin, ModelReference, Resources
    from tunewright.contracts.rundir import RunDir
    from tunewright.trainer.job import open_job
    from tunewright.trainer.session import open_session
    from tunewright.trainer.step import run_step
    from tunewright.trainer.strategies.choosing import start_engine

    workload, _, _ = load_workload(work)
    with tempfile.TemporaryDirectory() as temporary:
        run = RunDir.of(Path(temporary), "benchmark")
        run.path.mkdir(parents=True)
        document = _experiment(workload, work / "model")
        (cache,) = (work / "cache").iterdir()
        job = JobSpec(
            run="benchmark", run_dir=str(run.path), command=("trainer", "train", str(run.job)),
            resources=Resources(nodes=1, processes_per_node=1), experiment=ExperimentSpec.model_validate(document),
            model=ModelReference(name_or_path=str(work / "model")),
            dataset=CachedDataset(digest=cache.name, path=str(cache)),
            origin=LaunchOrigin(code=CodeOrigin(commit="c" * 40), user="benchmark", host="here", plugins={}),
        )  # fmt: skip
        write_json_atomically(run.job, job.to_document())
        write_json_atomically(run.resolved, document)
        opened = open_job(run.job)
        engine = start_engine(opened.experiment)
        session = open_session(opened, engine)
        for _ in range(workload.steps):
            watch.losses.append(run_step(session).loss)
            session.progress.step += 1
            watch.step_done()
        engine.close()


def _experiment(workload: Workload, model: Path) -> dict[str, Any]:
    training = {
        "batch_size": workload.rows_per_step, "micro_batch_size": 1, "learning_rate": LEARNING_RATE,
        "max_steps": workload.steps, "variant": workload.method,
    }  # fmt: skip
    if workload.method == "lora":
        training["options"] = LORA
    return {
        "name": "benchmark", "seed": SEED, "model": {"name_or_path": str(model), "dtype": workload.dtype},
        "dataset": {"max_length_tokens": workload.max_length_tokens, "packing": True, "mix": [{"source": "none"}]},
        "training": training,
    }  # fmt: skip


def trl(work: Path, watch: Stopwatch) -> None:
    """TRL's SFTTrainer: packed rows without padding, its own fused loss; what the row order leaves it is its own."""
    library, datasets = import_module("trl"), import_module("datasets")
    workload, conversations, steps = load_workload(work)
    rows = [[conversations[number] for number in row] for step in steps for row in step]
    dataset = datasets.Dataset.from_list(
        [
            {
                "input_ids": [int(token) for one in row for token in one.ids],
                "labels": [label for one in row for label in one.labels()],
                "seq_lengths": [len(one.ids) for one in row],
            }
            for row in rows
        ]
    )

    class InOrder(library.SFTTrainer):  # type: ignore[misc, name-defined]
        """Takes rows as they come, as all ways do."""

        def _get_train_sampler(self, *_: Any) -> Any:
            return import_module("torch.utils.data").SequentialSampler(dataset)

    arguments = library.SFTConfig(
        **_trainer_arguments(work, workload), packing=True, packing_strategy="bfd",
        max_length=workload.max_length_tokens, dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    peft = import_module("peft") if workload.method == "lora" else None
    adapters = peft and peft.LoraConfig(
        r=LORA["rank"], lora_alpha=LORA["alpha"], target_modules=LORA_MODULES, task_type="CAUSAL_LM"
    )
    tokenizer = import_module("transformers").AutoTokenizer.from_pretrained(work / "model")
    trainer = InOrder(
        model=_load_model(work, workload), args=arguments, train_dataset=dataset, processing_class=tokenizer,
        peft_config=adapters,
    )  # fmt: skip
    _train(trainer, watch)


def transformers(work: Path, watch: Stopwatch) -> None:
    """transformers' Trainer as its documentation begins: the conversations of each row padded to the longest."""
    library, torch = import_module("transformers"), import_module("torch")
    workload, conversations, steps = load_workload(work)
    rows = [[conversations[number] for number in row] for step in steps for row in step]

    def collate(batch: list[list[Conversation]]) -> dict[str, Any]:
        (row,) = batch
        pad = torch.nn.utils.rnn.pad_sequence
        ids = [torch.as_tensor(one.ids) for one in row]
        return {
            "input_ids": pad(ids, batch_first=True, padding_value=2),
            "attention_mask": pad([torch.ones_like(one) for one in ids], batch_first=True),
            "labels": pad([torch.as_tensor(one.labels()) for one in row], batch_first=True, padding_value=-100),
        }

    class InOrder(library.Trainer):  # type: ignore[misc, name-defined]
        """Takes rows as they come, as all ways do."""

        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(rows)

    arguments = library.TrainingArguments(**_trainer_arguments(work, workload), remove_unused_columns=False)
    model = _load_model(work, workload)
    if workload.method == "lora":
        peft = import_module("peft")
        config = peft.LoraConfig(r=LORA["rank"], lora_alpha=LORA["alpha"], target_modules=LORA_MODULES)
        model = peft.get_peft_model(model, config)
    _train(InOrder(model=model, args=arguments, train_dataset=rows, data_collator=collate), watch)


def _trainer_arguments(work: Path, workload: Workload) -> dict[str, Any]:
    """What both peers are told: no more than the same training without what it does not need."""
    return {
        "output_dir": str(work / "output"), "per_device_train_batch_size": 1, "seed": SEED,
        "gradient_accumulation_steps": workload.rows_per_step, "max_steps": workload.steps,
        "learning_rate": LEARNING_RATE, "lr_scheduler_type": "linear", "warmup_steps": 0, "weight_decay": 0.0,
        "optim": "adamw_torch_fused" if workload.on_gpu else "adamw_torch", "max_grad_norm": 1.0, "logging_steps": 1,
        "save_strategy": "no", "report_to": "none", "use_cpu": not workload.on_gpu, "disable_tqdm": True,
        "bf16": workload.dtype == "bfloat16", "gradient_checkpointing": False,
        "dataloader_pin_memory": workload.on_gpu,
    }  # fmt: skip


def _load_model(work: Path, workload: Workload) -> Any:
    library, torch = import_module("transformers"), import_module("torch")
    has_flash = workload.on_gpu and import_module("importlib.util").find_spec("flash_attn") is not None
    return library.AutoModelForCausalLM.from_pretrained(
        work / "model", dtype=torch.float32, attn_implementation="flash_attention_2" if has_flash else "sdpa"
    )


def _train(trainer: Any, watch: Stopwatch) -> None:
    callback = import_module("transformers").TrainerCallback

    class Watch(callback):  # type: ignore[misc, valid-type]
        """Notes when steps end, and their losses."""

        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.step_done()

        def on_log(self, _arguments: Any, _state: Any, _control: Any, logs: dict[str, Any], **__: Any) -> None:
            if "loss" in logs:
                watch.losses.append(float(logs["loss"]))

    trainer.add_callback(Watch())
    trainer.train()
    shutil.rmtree(trainer.args.output_dir, ignore_errors=True)


WAYS: dict[str, Callable[[Path, Stopwatch], None]] = {"ours": ours, "trl": trl, "transformers": transformers}


def peak_bytes(on_gpu: bool) -> int:
    """Of the GPU's memory, or of this process's own."""
    if on_gpu:
        import torch

        return int(torch.cuda.max_memory_allocated())
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))


def main() -> None:
    """Train, and answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    workload, conversations, steps = load_workload(arguments.work)
    watch = Stopwatch()
    WAYS[arguments.way](arguments.work, watch)
    counted = [conversations[number] for step in steps[1:] for row in step for number in row]
    answer = {
        "tokens": sum(len(one.ids) for one in counted), "cpu_seconds": watch.cpu_seconds,
        "wall_seconds": watch.wall_seconds, "losses": watch.losses, "peak_bytes": peak_bytes(workload.on_gpu),
        "trained": sum(end - start for one in counted for start, end in one.spans),
        "squared_lengths": sum(len(one.ids) ** 2 for one in counted),
    }  # fmt: skip
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
