"""`trainer estimate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tunewright.trainer.estimating.estimate import Estimate


@click.command("estimate")
@click.argument("subject", metavar="EXPERIMENT|RUN", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def estimate(subject: Path, as_json: bool) -> None:
    """Say how much memory and time a training takes: of an experiment file, a run, or its job.json.

    Of a run that has trained, what happened is shown beside it. Nothing is trained, and no weights are read.
    """
    from tunewright.trainer.estimating.happened import what_happened
    from tunewright.trainer.estimating.subject import find_subject

    found = find_subject(subject)
    from tunewright.trainer.estimating.estimate import estimate as make_estimate

    made, happened = make_estimate(found), what_happened(found.run_dir)
    document = {**made.to_document(), "happened": happened}
    click.echo(json.dumps(document, indent=2) if as_json else "\n".join(_lines(made, happened)))


def _lines(made: Estimate, happened: dict[str, Any]) -> list[str]:
    memory, rehearsal = made.memory, made.rehearsal
    parts = {
        "the program itself": memory.process_bytes,
        "weights": memory.weights_bytes,
        "gradients": memory.gradients_bytes,
        "optimizer": memory.optimizer_bytes,
        "activations": memory.activations_bytes,
        "copies while saving": memory.saving_bytes,
        "read while loading": memory.loading_bytes,
    }
    peak = f"{_gib(memory.peak_bytes)} at most, in each of {made.num_processes} processes"
    lines = [
        f"parameters: {rehearsal.num_parameters:,}, trained {rehearsal.num_trained:,}",
        f"memory: {peak if made.num_processes > 1 else f'{_gib(memory.peak_bytes)} at most'}",
        *(f"  {name}: {_gib(size)}" for name, size in parts.items()),
        f"step: {made.step_tokens:,} tokens, {made.step_flops / 1e12:,.3f} TFLOP",
        _time_line(made),
    ]
    if "peak_memory_bytes" in happened:
        ratio = memory.peak_bytes / happened["peak_memory_bytes"]
        lines.append(f"what happened: {_gib(happened['peak_memory_bytes'])} at most; the estimate is {ratio:.2f} of it")
    if "elapsed_seconds" in happened:
        lines.append(f"what happened: {happened['step']} steps in {happened['elapsed_seconds']:,.0f} s")
    return lines


def _time_line(made: Estimate) -> str:
    if made.seconds is None:
        return "time: not known before the dataset is prepared (give max_steps, or the run)"
    speed = made.device_flops_per_second / 1e12
    return f"time: about {made.seconds:,.0f} s for {made.num_steps:,} steps, at {speed:,.2f} TFLOP/s a device"


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
