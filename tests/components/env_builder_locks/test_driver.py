"""What hosts say of their NVIDIA drivers, and what follows."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.env_builder_locks.third_party import codes
from tunewright.env_builder.locks import driver
from tunewright.env_builder.locks.driver import Gpu, HostGpus, find_driver_problems, parse_nvidia_smi

QUERIED = "580.95.05, 8.6, 23028, NVIDIA A10\n580.95.05, 8.0, 40960, NVIDIA A100-PCIE-40GB\n"
TABLE = """Mon Jul 31 10:17:15 2023
+-----------------------------------------------------------------------------+
| NVIDIA-SMI 510.47.03    Driver Version: 510.47.03    CUDA Version: 11.6     |
|-------------------------------+----------------------+----------------------+
| GPU  Name        Persistence-M| Bus-Id        Disp.A | Volatile Uncorr. ECC |
|===============================+======================+======================|
|   0  Tesla T4            On   | 00000000:00:1E.0 Off |                    0 |
| N/A   30C    P8    13W /  70W |      2MiB / 15360MiB |      0%      Default |
+-------------------------------+----------------------+----------------------+
"""
NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running.\n"
)
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.95\n"


def test_driver_and_gpus_are_read_from_the_answer_to_the_query() -> None:
    assert parse_nvidia_smi(QUERIED) == HostGpus(
        "580.95.05", (Gpu("NVIDIA A10", 23028, "8.6"), Gpu("NVIDIA A100-PCIE-40GB", 40960, "8.0"))
    )


def test_the_driver_is_read_from_the_table_that_it_prints_when_asked_nothing() -> None:
    assert parse_nvidia_smi(TABLE) == HostGpus("510.47.03")


@pytest.mark.parametrize("output", ["", NO_DRIVER, MISMATCH, "No devices were found\n"])
def test_an_answer_that_names_no_driver_is_none(output: str) -> None:
    assert parse_nvidia_smi(output) is None


@pytest.mark.parametrize(
    ("cuda", "installed", "found"),
    [
        ("13.0", "580.65.06", []),
        ("13.2", "580.65.06", []),
        ("13.0", "595.45.04", []),
        ("13.0", "579.99.99", ["cuda-driver-too-old"]),
        ("13.0", "535.104.05", ["cuda-driver-too-old"]),
        ("12.8", "535.104.05", []),
        ("12.8", "515.65.01", ["cuda-driver-too-old"]),
        ("11.8", "470.82.01", []),
        ("11.8", "418.40.04", ["cuda-driver-too-old"]),
    ],
)
def test_a_driver_is_new_enough_for_its_major_version_of_cuda(cuda: str, installed: str, found: list[str]) -> None:
    assert codes(find_driver_problems(cuda, "7.5", f"{installed}, 8.6, 23028, NVIDIA A10")) == found


def test_a_driver_that_is_too_old_is_told_with_both_versions() -> None:
    (finding,) = find_driver_problems("13.0", "7.5", TABLE, "images/trainer-cuda")
    assert finding.path == "images/trainer-cuda"
    assert "580 or newer; this machine has 510.47.03" in finding.message


def test_a_gpu_that_is_too_old_is_told_by_number_and_name() -> None:
    output = "580.95.05, 8.6, 23028, NVIDIA A10\n580.95.05, 7.0, 16384, Tesla V100-SXM2-16GB\n"
    (finding,) = find_driver_problems("13.0", "7.5", output)
    assert finding.code == "cuda-gpu-too-old"
    assert finding.message.startswith("GPU 1 (Tesla V100-SXM2-16GB) has compute capability 7.0")
    assert codes(find_driver_problems("12.6", "5.0", output)) == []


def test_compute_capabilities_are_compared_as_numbers() -> None:
    assert codes(find_driver_problems("13.0", "7.5", "580.95.05, 12.0, 32607, NVIDIA GeForce RTX 5090")) == []


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (None, "no `nvidia-smi`"),
        (NO_DRIVER, "couldn't communicate"),
        (MISMATCH, "version mismatch"),
        ("\n", "no `nvidia"),
    ],
)
def test_no_driver_is_told_with_what_nvidia_smi_said(output: str | None, said: str) -> None:
    (finding,) = find_driver_problems("13.0", "7.5", output)
    assert finding.code == "cuda-no-driver"
    assert said in finding.message
    assert ("restart" in finding.hint) == (output == MISMATCH)


def _install(folder: Path, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_the_host_is_asked_for_every_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    _install(tmp_path, 'test "$#" = 2 && echo "580.95.05, 8.6, 23028, NVIDIA A10"')
    answer = driver.ask_host()
    assert answer is not None
    assert parse_nvidia_smi(answer) == HostGpus("580.95.05", (Gpu("NVIDIA A10", 23028, "8.6"),))


def test_a_driver_that_does_not_know_the_question_is_asked_plainly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "table").write_text(TABLE)
    refusal = "echo 'Field \"compute_cap\" is not a valid field to query.'; exit 2"
    _install(tmp_path, f'if test "$#" = 0; then cat {tmp_path}/table; else {refusal}; fi')
    answer = driver.ask_host()
    assert answer is not None
    assert parse_nvidia_smi(answer) == HostGpus("510.47.03")


def test_a_host_without_nvidia_smi_has_no_answer_and_a_failing_one_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert driver.ask_host() is None
    _install(tmp_path, "echo 'Failed to initialize NVML: Driver/library version mismatch' >&2; exit 18")
    (finding,) = find_driver_problems("13.0", "7.5", driver.ask_host())
    assert "Driver/library version mismatch" in finding.message
