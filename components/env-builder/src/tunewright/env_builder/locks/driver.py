"""Whether a host's NVIDIA driver and GPUs can run what the CUDA image holds: the host is asked, its answer judged."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tunewright.contracts.preflight import Finding

QUERY = ("nvidia-smi", "--query-gpu=driver_version,compute_cap,memory.total,name", "--format=csv,noheader,nounits")
"""What the host is asked. Drivers that do not know `compute_cap` are asked without arguments."""

_TIMEOUT_SECONDS = 30
"""A driver that is in trouble can take long to say so."""

MINIMUM_DRIVER: Mapping[str, str] = MappingProxyType({"11": "450", "12": "525", "13": "580"})
"""The oldest driver for each major version of CUDA: minor versions run on any driver of their major version.

Source: NVIDIA, "CUDA Compatibility", minor version compatibility, table 1.
"""

_HEADER = re.compile(r"Driver Version: (?P<driver>\d+(?:\.\d+)*)")
_ROW = re.compile(r"(?P<driver>\d+(?:\.\d+)+), (?P<capability>\d+\.\d+), (?P<memory>\d+), (?P<name>.+)")


@dataclass(frozen=True)
class Gpu:
    """One GPU of a host."""

    name: str
    memory_mib: int
    compute_capability: str
    """Its kind: `8.6` is an A10."""


@dataclass(frozen=True)
class HostGpus:
    """What a host says of its driver and GPUs."""

    driver: str
    gpus: tuple[Gpu, ...] = ()
    """Empty where the driver is too old to tell."""


def ask_host() -> str | None:
    """What `nvidia-smi` of this machine prints, errors included. None where there is no `nvidia-smi`."""
    if shutil.which(QUERY[0]) is None:
        return None
    answer, asked = _run(QUERY)
    return answer if asked else _run(QUERY[:1])[0]


def parse_nvidia_smi(output: str) -> HostGpus | None:
    """The driver and GPUs in what `nvidia-smi` printed, asked `QUERY` or nothing. None where it names no driver."""
    rows = [match for line in output.splitlines() if (match := _ROW.fullmatch(line.strip()))]
    if rows:
        gpus = (Gpu(row["name"], int(row["memory"]), row["capability"]) for row in rows)
        return HostGpus(rows[0]["driver"], tuple(gpus))
    header = _HEADER.search(output)
    return HostGpus(header["driver"]) if header else None


def minimum_driver(cuda: str) -> str | None:
    """The oldest driver that runs this version of CUDA (`13.0`), None where it is not known."""
    return MINIMUM_DRIVER.get(cuda.partition(".")[0])


def find_driver_problems(
    cuda: str, minimum_compute_capability: str, output: str | None, path: str = ""
) -> list[Finding]:
    """What keeps a host from running this CUDA. `output`: what its `nvidia-smi` printed, None where it has none."""
    host = parse_nvidia_smi(output) if output is not None else None
    if host is None:
        return [_no_driver(cuda, output, path)]
    problems = []
    needed = minimum_driver(cuda)
    if needed and _numbers(host.driver) < _numbers(needed):
        message = f"CUDA {cuda} needs an NVIDIA driver {needed} or newer; this machine has {host.driver}"
        hint = f"update the driver to {needed} or newer, or run on a machine that has one"
        problems.append(Finding(code="cuda-driver-too-old", path=path, message=message, hint=hint))
    for number, gpu in enumerate(host.gpus):
        if _numbers(gpu.compute_capability) < _numbers(minimum_compute_capability):
            message = (
                f"GPU {number} ({gpu.name}) has compute capability {gpu.compute_capability}; "
                f"CUDA {cuda} needs {minimum_compute_capability} or more"
            )
            problems.append(Finding(code="cuda-gpu-too-old", path=path, message=message, hint="use a newer GPU"))
    return problems


def _no_driver(cuda: str, output: str | None, path: str) -> Finding:
    said = next((line.strip() for line in (output or "").splitlines() if line.strip()), "")
    reason = f"nvidia-smi says: {said}" if said else "there is no `nvidia-smi` that answers"
    message = f"CUDA {cuda} needs an NVIDIA driver, and none answers on this machine: {reason}"
    mismatch = "Driver/library version mismatch" in (output or "")
    hint = "the driver was updated under a running kernel: restart the machine" if mismatch else "install the driver"
    return Finding(code="cuda-no-driver", path=path, message=message, hint=hint)


def _run(command: tuple[str, ...]) -> tuple[str, bool]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error), False
    return f"{done.stdout}\n{done.stderr}", done.returncode == 0


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
