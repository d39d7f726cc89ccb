"""What the lines of metrics say about time, memory and use of the machine."""

from __future__ import annotations

import mmap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from conformance.tiny_jobs import (
    TINY_CONFIG,
    make_cache,
    make_conversations,
    make_job,
    make_model,
    metrics_of,
)
from tunewright.trainer.efficiency import ModelCost, cost_of, known_peak, peak_tflops
from tunewright.trainer.job import open_job
from tunewright.trainer.timing import IntervalClock, PhaseClock, peak_memory_bytes
from tunewright.trainer.training import run_training

CPU = torch.device("cpu")


def make(**changes: Any) -> Any:
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**TINY_CONFIG, **changes}))


def test_operations_are_six_per_weight_and_token_and_four_for_frozen_ones() -> None:
    model = make()
    weights = {name: one.numel() for name, one in model.named_parameters()}
    body = sum(count for name, count in weights.items() if "embed" not in name and "lm_head" not in name)
    cost = cost_of(model, model)
    assert cost == ModelCost(6.0 * body, 6.0 * weights["lm_head.weight"], 6.0 * 2 * 64)
    assert cost.operations(10, 3, 100) == 10 * cost.per_token + 3 * cost.per_trained_token + 100 * 6 * 2 * 64
    model.requires_grad_(False)
    model.model.norm.weight.requires_grad_(True)
    assert cost_of(model, model).per_token == 4.0 * (body - 64) + 6.0 * 64


def test_of_a_mixture_only_the_experts_that_a_token_meets_count() -> None:
    sizes = {"num_experts": 4, "num_experts_per_tok": 1, "moe_intermediate_size": 32, "decoder_sparse_step": 1}
    model = make(model_type="qwen2_moe", shared_expert_intermediate_size=32, **sizes)
    experts = sum(one.numel() for name, one in model.named_parameters() if ".experts." in name)
    everywhere = make(model_type="qwen2_moe", shared_expert_intermediate_size=32, **{**sizes, "num_experts_per_tok": 4})
    assert experts > 0
    assert cost_of(everywhere, everywhere).per_token - cost_of(model, model).per_token == 6.0 * experts * 3 / 4


@pytest.mark.parametrize(
    ("name", "half", "single"),
    [
        ("NVIDIA A100-SXM4-80GB", 311.8, 19.5),
        ("NVIDIA H100 80GB HBM3", 989.4, 66.9),
        ("NVIDIA H100 PCIe", 756.0, 51.2),
        ("NVIDIA L4", 121.0, 30.3),
        ("NVIDIA L40S", 362.05, 91.6),
        ("NVIDIA GeForce RTX 4090", 165.2, 82.6),
        ("Some Other 4000", None, None),
    ],
)
def test_peaks_are_found_by_the_name_of_the_device(name: str, half: float | None, single: float | None) -> None:
    assert known_peak(name, torch.bfloat16) == half
    assert known_peak(name, torch.float32) == single


def test_a_stated_peak_counts_and_a_cpu_has_none() -> None:
    assert peak_tflops(CPU, torch.float32, 0.5) == 0.5
    assert peak_tflops(CPU, torch.float32, None) is None


def test_an_interval_knows_its_speed_padding_and_share_of_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 102.0, 102.0, 103.0, 103.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    clock = IntervalClock(ModelCost(10.0, 5.0, 1.0), peak_tflops=1e-9, num_processes=2)
    plan: Any = SimpleNamespace(num_tokens=80, num_trained=40, squared_lengths=200)
    clock.step_done(plan, filler_tokens=20)
    line = clock.taken(between_steps=1.5)
    # 80 x 10 + 40 x 5 + 200 operations in half a second of training, of 2 x 1,000 a second
    assert line == {"tokens_per_second": 40.0, "padding_ratio": 0.2, "mfu": 1.2}
    assert clock.taken(0.0) == {"tokens_per_second": 0.0, "padding_ratio": 0.0, "mfu": 0.0}


def test_phases_are_those_of_the_logged_step_and_of_all_between() -> None:
    clock = PhaseClock(CPU)
    for is_logged in (True, False, True):
        clock.begin_step(is_logged)
        with clock.phase("forward"):
            time.sleep(0.02)
        with clock.phase("checkpoint"):
            time.sleep(0.01)
    assert clock.between_steps >= 0.03
    seconds = clock.taken()
    assert list(seconds) == ["data", "forward", "backward", "optimizer", "checkpoint", "evaluation"]
    assert 0.02 <= seconds["forward"] < seconds["checkpoint"] + 0.02
    assert seconds["checkpoint"] >= 0.03
    assert clock.taken()["checkpoint"] == 0


def test_peak_memory_is_that_of_this_process() -> None:
    before = peak_memory_bytes(CPU)
    assert before > 50 * 2**20
    # From the system itself: malloc may have room left that other tests have used.
    with mmap.mmap(-1, before) as block:
        block[::4096] = b"x" * len(range(0, before, 4096))
    assert peak_memory_bytes(CPU) >= before * 1.5


@pytest.mark.timeout(180)
def test_a_training_tells_where_its_time_went_and_the_record_what_was_assumed(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "cache", make_conversations(8))
    job = make_job(
        tmp_path, make_model(tmp_path / "model"), cache, max_steps=4, log_every_steps=2, peak_tflops=0.05,
        checkpoint={"every_steps": 2},
    )  # fmt: skip
    run_training(open_job(job))
    first, second = metrics_of(job)
    for line in (first, second):
        assert all(line["seconds"][phase] > 0 for phase in ("data", "forward", "backward", "optimizer"))
        assert 0 < line["mfu"] < 1
        assert line["peak_memory_bytes"] > 100 * 2**20
    assert (first["seconds"]["checkpoint"] < 1e-3) and second["seconds"]["checkpoint"] > 1e-3
    assert second["seconds"]["evaluation"] < 1e-3
    computing = open_job(job).run_dir.training.read_text()
    assert '"peak_tflops": 0.05' in computing
    assert '"attention": "tunewright_segments"' in computing
    assert '"loss": "fused with the output layer"' in computing
