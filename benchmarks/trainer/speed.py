"""What training costs beside TRL's SFTTrainer and transformers' Trainer, in one run on one machine.

    PYTHON -m benchmarks.trainer.speed --work DIRECTORY --peers PYTHON [--dtype bfloat16] [--gpu] [--json]

Run by the interpreter that has ours, with the packages of the resolve `train-cpu` (or a GPU's torch).
`--peers` has TRL.
All ways train the same rows in the same optimizer steps from the same weights (`workload.py`); each runs in a process
of its own with one thread, rounds are interleaved, the figures are medians. A token counts once, padding never.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.trainer.workload import Workload

ROOT = Path(__file__).resolve().parents[2]
QUIET = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
FARTHEST_LOSS = {"float32": 2e-3, "bfloat16": 2e-2}
"""In parts of the loss: how far two ways may be apart at any step that start from the same weights. In bfloat16 each
rounds what it computes elsewhere, and ours not at all on a CPU without instructions for it."""

_PRODUCTS = 50


@dataclass(frozen=True)
class Figures:
    """Of one way: medians over its rounds."""

    way: str
    tokens_per_cpu_second: float
    tokens_per_second: float
    least: float
    most: float
    """Least and most tokens per CPU second of a round."""

    peak_mib: float
    losses: tuple[float, ...]
    mfu: float | None = None


def run_way(way: str, python: str, work: Path, threads: int) -> dict[str, Any]:
    """One round of one way. Raises RuntimeError with the end of what it said, where it fails."""
    environment = {**os.environ, **QUIET, "OMP_NUM_THREADS": str(threads)}
    command = [python, "-m", "benchmarks.trainer.ways", way, "--work", str(work)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{way}: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def figures_of(way: str, rounds: list[dict[str, Any]], mfu: float | None) -> Figures:
    """Medians."""
    by_cpu = [one["tokens"] / one["cpu_seconds"] for one in rounds]
    return Figures(
        way=way,
        tokens_per_cpu_second=statistics.median(by_cpu),
        tokens_per_second=statistics.median(one["tokens"] / one["wall_seconds"] for one in rounds),
        least=min(by_cpu),
        most=max(by_cpu),
        peak_mib=statistics.median(one["peak_bytes"] for one in rounds) / 2**20,
        losses=tuple(rounds[0]["losses"]),
        mfu=mfu,
    )


def mfu_of(work: Path, workload: Workload, answer: Mapping[str, Any]) -> float | None:
    """Part of a GPU's peak that the model's own operations took; None without a GPU that is known."""
    if not workload.on_gpu:
        return None
    import torch

    from tunewright.trainer.efficiency import known_peak

    peak = known_peak(torch.cuda.get_device_name(), getattr(torch, workload.dtype))
    done = operations_of(work, workload, answer)
    return None if peak is None else done / (answer["wall_seconds"] * peak * 1e12)


def operations_of(work: Path, workload: Workload, answer: Mapping[str, Any]) -> float:
    """Floating-point operations that the model's products and attention take, by their shapes."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tunewright.trainer.efficiency import cost_of

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(work / "model"))
    model.requires_grad_(workload.method == "full")
    return cost_of(model, model).operations(answer["tokens"], answer["trained"], answer["squared_lengths"])


def bare_product_rate(workload: Workload) -> float:
    """Operations a CPU second of one float32 product, on one thread: the model's widest layer, the best of some."""
    import torch

    torch.set_num_threads(1)
    rows, config = workload.max_length_tokens, workload.config
    width, others = config["hidden_size"], config["intermediate_size"]
    left, right, place = torch.ones(rows, width), torch.ones(width, others), torch.empty(rows, others)
    best = float("inf")
    for _ in range(_PRODUCTS):
        began = time.process_time()
        torch.mm(left, right, out=place)
        best = min(best, time.process_time() - began)
    return float(2 * rows * width * others / best)


def say_limit(work: Path, workload: Workload, answer: Mapping[str, Any]) -> None:
    """What products and attention alone would take, at the rate of a bare product here: no way can be faster."""
    done, rate = operations_of(work, workload, answer), bare_product_rate(workload)
    print(
        f"limit: {done / 1e9:,.0f} GFLOP of products and attention at {rate / 1e9:.0f} GFLOP/s, a bare product's rate "
        f"here: {done / rate:.1f} CPU s, {answer['tokens'] * rate / done:,.0f} tokens / CPU s",
        file=sys.stderr,
    )


def measure(arguments: argparse.Namespace, workload: Workload) -> list[Figures]:
    """All ways, in rounds."""
    pythons = {"ours": sys.executable, "trl": arguments.peers, "transformers": arguments.peers}
    ways = [way for way in arguments.ways.split(",") if pythons[way]]
    rounds: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for number in range(arguments.repeats):
        for way in ways:
            answer = run_way(way, pythons[way], arguments.work, arguments.threads)
            rounds[way].append(answer)
            speed = answer["tokens"] / answer["cpu_seconds"]
            print(f"round {number + 1}: {way}: {speed:,.0f} tokens a CPU second", file=sys.stderr, flush=True)
    if not workload.on_gpu and workload.dtype == "float32":
        say_limit(arguments.work, workload, rounds[ways[0]][0])
    return [figures_of(way, rounds[way], mfu_of(arguments.work, workload, rounds[way][0])) for way in ways]


def farthest_loss(figures: list[Figures]) -> float:
    """The greatest difference of any step's loss to ours, in parts of it."""
    first = figures[0].losses
    return max((abs(a - b) / b for one in figures[1:] for a, b in zip(one.losses, first, strict=True)), default=0.0)


def table_of(figures: list[Figures]) -> str:
    """For the README."""
    own = figures[0]
    lines = [
        "| | tokens / CPU s | ours / it | tokens / s | peak MiB | ours / it | loss of the last step | MFU |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for one in figures:
        speed = f"{one.tokens_per_cpu_second:,.0f} ({one.least:,.0f} to {one.most:,.0f})"
        mfu = "-" if one.mfu is None else f"{one.mfu:.1%}"
        lines.append(
            f"| {one.way} | {speed} | {own.tokens_per_cpu_second / one.tokens_per_cpu_second:.2f} | "
            f"{one.tokens_per_second:,.0f} | {one.peak_mib:,.0f} | {own.peak_mib / one.peak_mib:.2f} | "
            f"{one.losses[-1]:.4f} | {mfu} |"
        )
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a new directory, or one of the same workload")
    parser.add_argument("--peers", default="", help="interpreter of the environment that has TRL")
    parser.add_argument("--ways", default="ours,trl,transformers")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rows", type=int, default=2, help="packed rows of an optimizer step")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--method", choices=("full", "lora"), default="full")
    parser.add_argument("--gpu", action="store_true", help="a 1B Llama, 4,096 tokens, on the GPU that is there")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Measure and tell."""
    arguments = parse()
    length = 4096 if arguments.gpu else 2048
    workload = Workload(length, arguments.rows, arguments.steps, arguments.dtype, arguments.method, arguments.gpu)
    if not (arguments.work / "workload.json").is_file():
        make = [sys.executable, "-m", "benchmarks.trainer.workload", "--work", str(arguments.work)]
        subprocess.run([*make, "--workload", json.dumps(asdict(workload))], cwd=ROOT, check=True)
    elif json.loads((arguments.work / "workload.json").read_text()) != asdict(workload):
        raise SystemExit(f"{arguments.work} holds another workload: give another directory")
    figures = measure(arguments, workload)
    if arguments.json:
        print(json.dumps([asdict(one) for one in figures], indent=2))
    else:
        print(table_of(figures))
    apart = farthest_loss(figures)
    print(f"losses of all steps: at most {apart:.1e} apart", file=sys.stderr)
    if apart > FARTHEST_LOSS[workload.dtype] and arguments.method == "full":
        raise SystemExit(f"the losses differ by {apart:.1e}: these are not the same trainings")


if __name__ == "__main__":
    main()
