"""`launcher doctor`."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click

from tunewright.contracts.clusters import ClusterInfo
from tunewright.contracts.errors import TunewrightError
from tunewright.contracts.experiment_file import find_project_root
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.preflight import Severity
from tunewright.launcher.clusters import open_cluster
from tunewright.launcher.commands.options import as_json, current_home, print_json
from tunewright.launcher.user_config import config_lines, describe_config

EXIT_UNAVAILABLE = 69


@click.command()
@as_json
def doctor(as_json: bool) -> int:
    """Show what this machine can do. Exits 69 where no cluster can be used from here."""
    host = PluginHost.discover()
    clusters = [_cluster(info, host) for info in host.clusters]
    broken = [{"name": plugin.name, "error": plugin.error} for plugin in host.installed if plugin.error]
    document = {
        "machine": machine(current_home()),
        "clusters": clusters,
        "broken_plugins": broken,
        "configuration": describe_config(host),
    }
    if as_json:
        print_json(document)
    else:
        _print(document)
    return 0 if any(cluster["usable"] for cluster in clusters) else EXIT_UNAVAILABLE


def machine(home: Path) -> dict[str, Any]:
    """The machine in facts."""
    place = next(directory for directory in (home, *home.parents) if directory.exists())
    root = find_project_root(Path.cwd() / "experiment.toml")
    own_pants = root / "pants"
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(memory_bytes() / 2**30, 1),
        "home": str(home),
        "free_disk_gib": round(shutil.disk_usage(place).free / 2**30, 1),
        "git": shutil.which("git"),
        "pants": str(own_pants) if own_pants.is_file() else shutil.which("pants"),
        "gpus": _gpus(),
    }


def _gpus() -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):  # a driver that hangs is no GPU to train on
        return []
    return result.stdout.strip().splitlines() if result.returncode == 0 else []


def memory_bytes() -> int:
    """The machine's memory, or the container's share of it where that is smaller."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
    for limit in limits:
        if limit.is_file() and (text := limit.read_text().strip()).isdigit():
            total = min(total, int(text))
    return total


def _cluster(info: ClusterInfo, host: PluginHost) -> dict[str, Any]:
    try:
        findings = open_cluster(info.name, host).check()
    except TunewrightError as error:
        return {"name": info.name, "usable": False, "findings": [error.message]}
    usable = not any(finding.severity is Severity.ERROR for finding in findings)
    return {"name": info.name, "usable": usable, "findings": [f"{f.severity}: {f}" for f in findings]}


def _print(document: dict[str, Any]) -> None:
    for key, value in document["machine"].items():
        click.echo(f"{key.replace('_', ' '):14}  {value if value not in (None, []) else 'none'}")
    for cluster in document["clusters"]:
        click.echo(f"cluster {cluster['name']}: {'usable' if cluster['usable'] else 'NOT usable'}")
        for finding in cluster["findings"]:
            click.echo(f"    {finding}")
    for line in config_lines(document["configuration"]):
        click.echo(line)
    for plugin in document["broken_plugins"]:
        click.echo(f"broken plugin {plugin['name']}: {plugin['error']}")
