"""What the job ran on and with: for the record."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import torch


def hardware_facts() -> dict[str, Any]:
    """CPU, memory, GPUs, driver, CUDA."""
    return {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "driver": _driver_version(),
    }


def installed_packages() -> dict[str, str]:
    """Every distribution and its version."""
    return {name: found.version for found in metadata.distributions() if (name := found.metadata["Name"])}


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown")
    except OSError:
        return platform.processor() or "unknown"


def _driver_version() -> str | None:
    try:
        with open("/proc/driver/nvidia/version") as file:
            return file.readline().strip()
    except OSError:
        return None
