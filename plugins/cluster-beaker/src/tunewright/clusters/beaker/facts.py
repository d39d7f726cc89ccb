"""What is known of Beaker's clusters: a table that users extend, and what several of them have in common."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from tunewright.clusters.beaker.mounts import parse_mount
from tunewright.contracts.spec import Spec

USER_TABLE = Path("tunewright") / "beaker-clusters.toml"
"""Below the user's configuration directory."""


def _is_mount(text: str) -> str:
    parse_mount(text)
    return text


MountText = Annotated[str, AfterValidator(_is_mount)]


class ClusterFacts(Spec):
    """A row of the table: `[clusters."ORGANIZATION/NAME"]`."""

    mounts: tuple[MountText, ...] = ()
    """Shared storage that every node of it has, as in `cluster.options.mounts`."""

    interconnect: bool | None = None
    """Whether its nodes are joined for training over several of them. None: nobody has said."""

    environment: dict[str, str] = {}
    """Variables of every job there: where caches on the shared storage are."""

    multi_node_environment: dict[str, str] = {}
    """Variables of jobs of several nodes: what NCCL must know of the network."""

    hostnames: tuple[str, ...] = ()
    """Patterns of its nodes' names (`jupiter-*`): a job that names hosts gets the facts of their cluster."""


def read_tables(more: str | None) -> dict[str, Any]:
    """The rows of all tables, as TOML has them: ours, the user's over it, and the file `more` over both.

    A later row replaces an earlier one of the same name whole. Raises ValueError naming a file that cannot be read.
    """
    shipped = resources.files("tunewright.clusters.beaker").joinpath("clusters.toml").read_text(encoding="utf-8")
    rows = dict(_rows(shipped, "clusters.toml"))
    own = user_table()
    if own.is_file():
        rows |= _rows(_text_of(own), str(own))
    if more is not None:
        rows |= _rows(_text_of(Path(more)), more)
    return rows


def user_table() -> Path:
    """The user's own table; it need not exist."""
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(home) / USER_TABLE


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the table {path}: {error}") from None


def _rows(text: str, name: str) -> Mapping[str, Any]:
    try:
        rows = tomllib.loads(text).get("clusters", {})
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"the table {name} is no TOML: {error}") from None
    if not isinstance(rows, dict):
        raise ValueError(f'the table {name} must have rows [clusters."ORGANIZATION/NAME"]')
    return rows


def rows_for(clusters: Iterable[str], hostnames: Iterable[str], tables: Mapping[str, Any]) -> dict[str, Any]:
    """The rows of the clusters that are named, or that the named hosts belong to. A cluster without one has none."""
    named = {cluster for cluster in clusters if cluster in tables}
    for hostname in hostnames:
        named |= {cluster for cluster, row in tables.items() if _has_host(row, hostname)}
    return {cluster: tables[cluster] for cluster in sorted(named)}


def _has_host(row: Any, hostname: str) -> bool:
    patterns = row.get("hostnames", ()) if isinstance(row, dict) else ()
    return is_named(hostname, [pattern for pattern in patterns if isinstance(pattern, str)])


def is_named(hostname: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns names the host."""
    return any(fnmatchcase(hostname, pattern) for pattern in patterns)


def shared_mounts(facts: Sequence[ClusterFacts]) -> tuple[str, ...]:
    """Mounts that every cluster has: a job may start on any of them, and must find its storage there."""
    if not facts:
        return ()
    return tuple(mount for mount in facts[0].mounts if all(mount in other.mounts for other in facts[1:]))


def shared_variables(variables: Sequence[Mapping[str, str]]) -> tuple[dict[str, str], tuple[str, ...]]:
    """What all of them say, and the names on which they differ."""
    names = sorted({name for each in variables for name in each})
    agreed = {name: variables[0][name] for name in names if len({each.get(name) for each in variables}) == 1}
    return agreed, tuple(name for name in names if name not in agreed)
