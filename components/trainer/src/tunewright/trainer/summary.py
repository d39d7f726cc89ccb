"""`training.json`: what the trainer saw of the machine, the packages and the run."""

from __future__ import annotations

import functools
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tunewright.contracts.distributions import name_and_version
from tunewright.contracts.files import sha256_of_tree, write_json_atomically
from tunewright.contracts.provenance import TrainingSummary
from tunewright.contracts.timestamps import utc_now
from tunewright.trainer.job import TrainingJob


def write_summary(job: TrainingJob, summary: TrainingSummary) -> None:
    """Write `training.json` of the run."""
    write_json_atomically(job.run_dir.training, summary.to_document())


def read_summary(job: TrainingJob) -> TrainingSummary | None:
    """`training.json` of the run, or None where there is none that can be read."""
    try:
        return TrainingSummary.model_validate_json(job.run_dir.training.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def note_failure(job: TrainingJob, message: str, keep: bool = False) -> None:
    """Write into `training.json` why the run ended. With `keep` a reason that is there already stays."""
    if os.environ.get("TUNEWRIGHT_NODE_RANK", "0") != "0" or not job.run_dir.path.is_dir():
        return
    summary = read_summary(job) or TrainingSummary(started_at=utc_now(), num_processes=job.num_processes)
    if keep and summary.error:
        return
    write_summary(job, summary.model_copy(update={"error": message, "ended_at": utc_now()}))


def digest_of_loaded_model(job: TrainingJob) -> str | None:
    """Of the model's directory, where the job was planned before there was one; else the job says it, or a revision."""
    directory = Path(job.model.name_or_path)
    is_told = job.model.sha256 is not None or not directory.is_absolute()
    return None if is_told or not directory.is_dir() else sha256_of_tree(directory)


def installed_packages() -> dict[str, str]:
    """Every installed distribution and its version, by name."""
    return dict(_installed_packages())


@functools.cache
def _installed_packages() -> tuple[tuple[str, str], ...]:
    found = dict(name_and_version(one.read_text) for one in metadata.distributions())
    found.pop("?", None)  # what has no name is none
    return tuple(sorted(found.items(), key=lambda one: one[0].lower()))


def describe_hardware() -> dict[str, Any]:
    """CPU, memory, and GPUs where there are any."""
    import torch

    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    hardware: dict[str, Any] = {
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cpu_cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_bytes / 2**30, 1),
        "torch_threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }
    if torch.cuda.is_available():
        hardware |= {"cuda": torch.version.cuda, "driver": _driver_version()}
    return hardware


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        models = []
    return models[0] if models else platform.processor()


def _driver_version() -> str:
    try:
        with open("/proc/driver/nvidia/version") as file:
            return file.readline().strip()
    except OSError:
        return "unknown"


def determinism_record(on_gpu: bool, num_processes: int) -> dict[str, Any]:
    """The flags that were set, and in words what they do not cover."""
    import torch

    flags: dict[str, Any] = {
        "use_deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "CUBLAS_WORKSPACE_CONFIG": os.environ.get("CUBLAS_WORKSPACE_CONFIG", ""),
    }
    return {**flags, "not_deterministic": _not_deterministic(on_gpu, num_processes)}


def _not_deterministic(on_gpu: bool, num_processes: int) -> list[str]:
    import torch

    words = [
        f"another number of processes than {num_processes} adds up gradients in another order: the last bits differ",
        "another CPU model, number of threads or version of torch may round differently",
    ]
    if not torch.are_deterministic_algorithms_enabled():
        words.insert(0, "training.deterministic is false: kernels were chosen for speed, results may differ")
    elif on_gpu:
        words.insert(
            0, "GPU kernels without a deterministic form were run with a warning: results may differ in the last bits"
        )
    return words


def python_version() -> str:
    """Version of the interpreter."""
    return platform.python_version()
