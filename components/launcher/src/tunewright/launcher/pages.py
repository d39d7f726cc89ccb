"""The page that a cluster has for a job, where it has pages. Asks no cluster anything."""

from __future__ import annotations

from collections.abc import Sequence

from tunewright.contracts.clusters import Capability
from tunewright.contracts.errors import TunewrightError
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.rundir import RunDir
from tunewright.launcher.clusters import GuardedCluster, open_cluster
from tunewright.launcher.run_store import cluster_name_of, read_handle


def pages_of(runs: Sequence[RunDir], host: PluginHost) -> dict[str, str]:
    """The address of each run's page, by the run's name; of runs whose cluster has none, or cannot be had, none."""
    opened: dict[str, GuardedCluster | None] = {}
    pages = {}
    for run in runs:
        try:
            page = _page_of(run, host, opened)
        except TunewrightError:  # a page is no reason to fail
            continue
        if page:
            pages[run.name] = page
    return pages


def _page_of(run: RunDir, host: PluginHost, opened: dict[str, GuardedCluster | None]) -> str | None:
    handle, name = read_handle(run), cluster_name_of(run)
    if handle is None:
        return None
    if name not in opened:
        opened[name] = None  # also where opening it fails: once is enough
        if Capability.URL in host.clusters.get(name).capabilities:
            opened[name] = open_cluster(name, host)
    cluster = opened[name]
    return cluster.url(handle) if cluster is not None else None
