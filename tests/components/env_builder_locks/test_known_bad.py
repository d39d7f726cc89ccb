"""Pins that are known to be bad."""

from __future__ import annotations

import re

import pytest
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from components.env_builder_locks.third_party import ThirdParty, codes, lock_text
from tunewright.contracts.preflight import Severity
from tunewright.env_builder.locks.known_bad import CUDA, KNOWN_BAD, Target
from tunewright.env_builder.locks.pins import cuda_of, find_known_bad, find_known_bad_pins
from tunewright.env_builder.locks.requirement_files import lock_entries

CASES: list[tuple[str, Target, tuple[str, ...]]] = [
    ("known-bad-bitsandbytes-cuda", "cuda", ("bitsandbytes==0.41.3", "torch==2.13.0", "nvidia-cuda-runtime==13.0.96")),
    ("known-bad-bitsandbytes-cuda", "cuda", ("bitsandbytes==0.47.0", "torch==2.9.0+cu130")),
    ("known-bad-bitsandbytes-cuda", "cuda", ("bitsandbytes==0.44.1", "nvidia-cuda-runtime-cu12==12.6.77")),
    ("known-bad-bitsandbytes-cpu", "cpu", ("bitsandbytes==0.45.5",)),
    ("known-bad-bitsandbytes-triton", "cuda", ("bitsandbytes==0.45.0", "triton==3.2.0")),
    ("known-bad-peft-transformers", "cpu", ("peft==0.17.1", "transformers==5.0.0")),
    ("known-bad-peft-transformers", "cpu", ("peft==0.19.1", "transformers==5.23.0")),
    ("known-bad-deepspeed-numpy", "cuda", ("deepspeed==0.14.3", "numpy==2.0.0")),
    ("known-bad-torch-numpy", "cpu", ("torch==2.2.2+cpu", "numpy==2.0.0")),
    ("known-bad-torch-load", "cpu", ("torch==2.5.1+cpu",)),
    ("known-bad-torch-conv3d", "cuda", ("torch==2.9.0",)),
    ("known-bad-nccl-hang", "cuda", ("nvidia-nccl-cu12==2.29.2",)),
    ("known-bad-nccl-hang", "cuda", ("nvidia-nccl-cu13==2.29.2",)),
    ("known-bad-flash-attn-torch", "cuda", ("flash-attn==2.7.4.post1", "torch==2.7.0")),
    ("known-bad-flash-attn-torch", "cuda", ("flash-attn==2.8.0.post2", "torch==2.6.0")),
    ("known-bad-flash-attn-cpu", "cpu", ("flash-attn==2.8.3.post2",)),
    ("known-bad-liger-kernel-cpu", "cpu", ("liger-kernel==0.8.5",)),
    ("known-bad-liger-kernel-transformers", "cuda", ("liger-kernel==0.5.9", "transformers==4.52.4")),
    ("known-bad-liger-kernel-transformers", "cuda", ("liger-kernel==0.6.4", "transformers==5.0.0")),
    ("known-bad-accelerate-transformers", "cpu", ("accelerate==1.2.1", "transformers==4.52.4")),
    ("known-bad-transformers-loss", "cpu", ("transformers==4.47.1",)),
    ("known-bad-tokenizers-transformers", "cpu", ("tokenizers==0.22.2", "transformers==5.23.0")),
    ("known-bad-tokenizer-library", "cpu", ("tokie==0.1.4",)),
    ("known-bad-tokenizer-library", "cpu", ("gigatoken==0.10.0",)),
    ("known-bad-tokenizer-library", "cpu", ("kitoken==0.11.1",)),
]


@pytest.mark.parametrize(("code", "target", "pins"), CASES)
def test_each_known_bad_pin_is_reported_by_its_code(code: str, target: Target, pins: tuple[str, ...]) -> None:
    (finding,) = [finding for finding in find_known_bad(lock_text(*pins), target) if finding.code == code]
    name, _, version = pins[0].partition("==")
    assert finding.message.startswith(f"{name} {version}")
    assert finding.hint.startswith("use ")


def test_every_code_of_the_table_has_a_case() -> None:
    assert {known.code for known in KNOWN_BAD} == {code for code, _, _ in CASES}


@pytest.mark.parametrize(
    ("target", "pins"),
    [
        ("cuda", ("bitsandbytes==0.48.0", "torch==2.10.0+cu126", "triton==3.5.0")),
        ("cuda", ("bitsandbytes==0.50.2", "torch==2.13.0", "nvidia-cuda-runtime==13.0.96", "triton==3.7.1")),
        ("cpu", ("deepspeed==0.14.3", "numpy==1.26.4")),
        ("cuda", ("flash-attn==2.8.3.post2", "torch==2.13.0", "liger-kernel==0.8.5", "transformers==5.23.0")),
        ("cuda", ("peft==0.17.1", "transformers==4.57.6")),
        ("cpu", ("transformers==4.57.6", "tokenizers==0.22.1")),
    ],
)
def test_good_pins_are_not_reported(target: Target, pins: tuple[str, ...]) -> None:
    assert find_known_bad(lock_text(*pins), target) == []


def test_the_cuda_library_that_is_missing_is_told_with_what_has_it() -> None:
    pins = lock_text("accelerate==1.15.0", "bitsandbytes==0.41.3", "torch==2.13.0", "nvidia-cuda-runtime==13.0.96")
    finding = find_known_bad(pins, "cuda", "3rdparty/python/train-cuda.lock")[0]
    assert finding.severity is Severity.ERROR
    assert finding.path == "3rdparty/python/train-cuda.lock:3"
    assert finding.message.startswith("bitsandbytes 0.41.3 beside CUDA 13.0: ")
    assert "compiled without GPU support" in finding.message
    assert finding.hint == "use bitsandbytes>=0.43.2"


def test_one_story_is_told_once_for_a_pin() -> None:
    pins = lock_text("bitsandbytes==0.41.3", "torch==2.9.1+cu130", "triton==3.5.1")
    found = codes(find_known_bad(pins, "cuda"))
    assert sorted(found) == ["known-bad-bitsandbytes-cuda", "known-bad-bitsandbytes-triton", "known-bad-torch-conv3d"]


def test_pins_without_hashes_and_with_markers_are_judged_too() -> None:
    text = '# exported\nBitsAndBytes==0.45.0 ; sys_platform == "linux"\ntriton==3.2.0\n-e .\nnumpy>=2\n'
    assert codes(find_known_bad(text, "cuda")) == ["known-bad-bitsandbytes-triton"]


def test_what_is_in_another_lock_counts_as_beside() -> None:
    flash = lock_text("flash-attn==2.7.4.post1")
    assert find_known_bad(flash, "cuda") == []
    assert codes(find_known_bad(flash, "cuda", beside_text=lock_text("torch==2.13.0"))) == [
        "known-bad-flash-attn-torch"
    ]


@pytest.mark.parametrize(
    ("pins", "cuda"),
    [
        (("torch==2.4.0+cu124",), "12.4"),
        (("torch==2.1.0+cu118", "nvidia-cuda-runtime-cu12==12.6.77"), "11.8"),
        (("torch==2.13.0", "nvidia-cuda-runtime==13.0.96"), "13.0"),
        (("nvidia-cuda-runtime-cu12==12.8.90", "torch==2.8.0"), "12.8"),
        (("torch==2.13.0+cpu",), None),
    ],
)
def test_the_cuda_of_a_lock_is_that_of_its_torch(pins: tuple[str, ...], cuda: str | None) -> None:
    assert cuda_of(lock_entries(lock_text(*pins))) == cuda


def test_each_lock_of_a_checkout_is_judged_for_what_it_is_installed_for(third_party: ThirdParty) -> None:
    assert find_known_bad_pins(third_party.root) == []
    third_party.resolve("train-cpu", "", "liger-kernel==0.8.5", "bitsandbytes==0.45.5")
    third_party.resolve("train-cuda", "", "liger-kernel==0.8.5", "bitsandbytes==0.47.0", "torch==2.13.0+cu130")
    third_party.resolve("flash-attn", "", "flash-attn==2.7.4.post1")
    found = {(finding.path, finding.code) for finding in find_known_bad_pins(third_party.root)}
    assert found == {
        ("3rdparty/python/train-cpu.lock:3", "known-bad-bitsandbytes-cpu"),
        ("3rdparty/python/train-cpu.lock:1", "known-bad-liger-kernel-cpu"),
        ("3rdparty/python/train-cuda.lock:3", "known-bad-bitsandbytes-cuda"),
        ("3rdparty/python/flash-attn.lock:1", "known-bad-flash-attn-torch"),
    }


def test_every_row_of_the_table_can_be_read_and_says_why_and_what_instead() -> None:
    for known in KNOWN_BAD:
        assert re.fullmatch(r"known-bad(-[a-z0-9]+)+", known.code), known
        assert known.package == canonicalize_name(known.package), known
        assert SpecifierSet(known.versions), known
        if known.beside is not None:
            name, versions = known.beside
            assert name == CUDA or name == canonicalize_name(name), known
            assert SpecifierSet(versions), known
        assert known.reason, known
        assert known.instead, known
        assert known.source, known
