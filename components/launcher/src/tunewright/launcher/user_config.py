"""The user's own configuration: a default cluster, profiles of clusters, and prices. It decides before `--set` does.

Nothing of it stays hidden: a run's resolved experiment holds the result, and needs the configuration no more.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from tunewright.contracts.errors import InvalidExperiment, NotFound, Problem, TunewrightError
from tunewright.contracts.experiment import NAME_PATTERN, ClusterSpec
from tunewright.contracts.experiment_file import parse_spec, read_document
from tunewright.contracts.plugins import PluginHost, options_type_of
from tunewright.contracts.spec import Spec
from tunewright.contracts.stages import STAGES_KEY, merge_table

CONFIG_VARIABLE = "TUNEWRIGHT_CONFIG"
_FOLDER_VARIABLE = "XDG_CONFIG_HOME"
_CLUSTER_NAME = "cluster.name"


class Defaults(Spec):
    """`[defaults]`: what holds where neither the experiment nor the command line says it."""

    cluster: str | None = None
    """A cluster's or a profile's name, for experiments without `cluster.name`."""


class Profile(ClusterSpec):
    """`[profiles.NAME]`: a `[cluster]` table under a name. What it leaves out, the experiment says."""

    name: str
    """The cluster plugin."""


class Price(Spec):
    """`[prices.NAME]`: what an hour costs, on the cluster or by the profile of that name."""

    currency: str = Field(min_length=1)
    """As it is printed: `USD`."""

    per_node_hour: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Of a node, in `currency`. Excludes `per_gpu_hour`."""

    per_gpu_hour: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Of a process, which has a GPU where there are GPUs, in `currency`."""

    at_most: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """The most that one run may cost, in `currency`: a run that is estimated above it is refused. None: no limit."""

    @model_validator(mode="after")
    def _one_price(self) -> Price:
        if (self.per_node_hour is None) == (self.per_gpu_hour is None):
            raise ValueError("give one of `per_node_hour` and `per_gpu_hour`")
        return self

    def per_hour(self, cluster: ClusterSpec) -> float:
        """An hour of a job that asks for what `cluster` does."""
        if self.per_node_hour is not None:
            return self.per_node_hour * cluster.nodes
        assert self.per_gpu_hour is not None, "one of them is there"
        return self.per_gpu_hour * cluster.nodes * cluster.processes_per_node


class UserConfig(Spec):
    """The whole file."""

    defaults: Defaults = Defaults()
    """What holds where nothing else is said."""

    profiles: dict[str, Profile] = {}
    """Clusters with their options, by the names that `--cluster` and `cluster.name` take."""

    prices: dict[str, Price] = {}
    """Prices by the name of a cluster or of a profile."""


def config_path() -> Path:
    """`$TUNEWRIGHT_CONFIG`, or `tunewright/config.toml` in `$XDG_CONFIG_HOME`, which is `~/.config` where not set."""
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    folder = os.environ.get(_FOLDER_VARIABLE)
    return (Path(folder) if folder else Path.home() / ".config") / "tunewright" / "config.toml"


def read_user_config(host: PluginHost) -> UserConfig:
    """The user's configuration; an empty one where there is none.

    Raises NotFound where `$TUNEWRIGHT_CONFIG` names no file, InvalidExperiment with every problem of the file.
    """
    path = config_path()
    try:
        document = tomllib.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        if os.environ.get(CONFIG_VARIABLE):
            raise NotFound(f"{CONFIG_VARIABLE}: {path}: no such file") from None
        return UserConfig()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidExperiment(f"{path}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise InvalidExperiment(f"{path}: is not TOML: {error}") from None
    return _checked(document, path, host)


def _checked(document: dict[str, Any], path: Path, host: PluginHost) -> UserConfig:
    """Every problem at once: the file's own, and what the clusters say about the options of their profiles."""
    problems: list[Problem] = []
    try:
        config = parse_spec(UserConfig, document, str(path))
    except InvalidExperiment as error:
        config = UserConfig()
        problems.extend(error.problems)
    for name, table in _table(document, "profiles").items():
        problems.extend(_profile_problems(name, table, host))
    problems.extend(_name_problems(document, host))
    if problems:
        raise InvalidExperiment.from_problems(str(path), problems)
    return config


def _profile_problems(name: str, table: Any, host: PluginHost) -> list[Problem]:
    """What is wrong with its name, its cluster, and its options as far as they are there."""
    place = f"profiles.{name}"
    if not re.fullmatch(NAME_PATTERN, name):
        return [Problem(place, f"must match {NAME_PATTERN}, got {name!r}")]
    if name in host.clusters:
        plugin = host.clusters.owner_of(name)
        return [Problem(place, f"is also the name of a cluster, of plugin {plugin}", "call the profile something else")]
    cluster = table.get("name") if isinstance(table, dict) else None
    if not isinstance(cluster, str):  # told already
        return []
    if cluster not in host.clusters:
        return [_unknown(f"{place}.name", cluster, [info.name for info in host.clusters], "a cluster")]
    options = table.get("options", {})
    if not isinstance(options, dict):
        return []
    try:
        parse_spec(options_type_of(host.clusters.get(cluster)), options, "", f"{place}.options")
    except InvalidExperiment as error:  # what is missing, the experiment may have
        return [problem for problem in error.problems if problem.message != "is missing"]
    return []


def _table(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    table = document.get(key)
    return table if isinstance(table, dict) else {}


def _name_problems(document: Mapping[str, Any], host: PluginHost) -> list[Problem]:
    """Names in the file that nothing is called by."""
    known = [*_table(document, "profiles"), *(info.name for info in host.clusters)]
    unknown = [name for name in _table(document, "prices") if name not in known]
    problems = [_unknown(f"prices.{name}", name, known, "a cluster or a profile") for name in unknown]
    default = _table(document, "defaults").get("cluster")
    if isinstance(default, str) and default not in known:
        problems.append(_unknown("defaults.cluster", default, known, "a cluster or a profile"))
    return problems


def _unknown(path: str, name: str, known: Sequence[str], what: str) -> Problem:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"there are: {', '.join(sorted(known))}"
    return Problem(path, f"must name {what}, got {name!r}", hint)


def choose_cluster(path: Path, assignments: Sequence[str], cluster: str | None, config: UserConfig) -> tuple[str, ...]:
    """`assignments` with the chosen cluster in them: the file, below the profile, below `--set`.

    `cluster` is what `--cluster` says. Raises what `read_document` raises.
    """
    # A JSON string is a TOML string: whatever the name holds, it stays one name.
    named = () if cluster is None else (f"{_CLUSTER_NAME}={json.dumps(cluster)}",)
    document = read_document(path)[1]
    tables: dict[str, dict[str, Any]] = {}
    for place, name in _names(path, (*assignments, *named), config).items():
        profile = config.profiles.get(name)
        if profile is not None:
            tables[place] = profile.model_dump(mode="json", exclude_unset=True)
        elif name == config.defaults.cluster:
            tables[place] = {"name": name}
    begun = [f"{place}={toml_value(_merged(place, document, above, config))}" for place, above in tables.items()]
    # Where the profile's own name was given, that of its cluster is in the table.
    kept = [one for one in (*assignments, *named) if one.partition("=")[0].strip() not in {f"{p}.name" for p in tables}]
    return (*begun, *kept)


def _names(path: Path, assignments: Sequence[str], config: UserConfig) -> dict[str, str]:
    """The name that stands at each `[cluster]` of the file, its stages' own included, with `assignments` on top."""
    document = read_document(path, assignments)[1]
    names: dict[str, str | None] = {"cluster": _name_in(document)}
    if "name" not in document.get("cluster", {}):
        names["cluster"] = config.defaults.cluster
    stages = document.get(STAGES_KEY)
    for number, stage in enumerate(stages if isinstance(stages, list) else ()):
        names[f"{STAGES_KEY}.{number}.cluster"] = _name_in(stage)
    return {place: name for place, name in names.items() if name is not None}


def _name_in(document: Any) -> str | None:
    table = document.get("cluster") if isinstance(document, dict) else None
    name = table.get("name") if isinstance(table, dict) else None
    return name if isinstance(name, str) else None


def _merged(place: str, document: dict[str, Any], above: dict[str, Any], config: UserConfig) -> Any:
    """The table at `place` of the file, with `above` on top."""
    table: Any = document
    for part in place.split("."):
        table = table[int(part)] if isinstance(table, list) else table.get(part)
    given = table if isinstance(table, dict) else {}
    # Where the file has the profile's name as the cluster's, its options are of the profile's cluster.
    below = {**given, "name": above["name"]} if given.get("name") in config.profiles else given
    return merge_table("cluster", below, above)


def profile_of(cluster: ClusterSpec, config: UserConfig, among: Sequence[str]) -> str | None:
    """The profile of `among` whose every value `cluster` has: the one with the most; None where there is none."""
    found = [name for name in among if name in config.profiles and _has(cluster, config.profiles[name])]
    return max(found, key=lambda name: len(config.profiles[name].model_dump_json(exclude_unset=True)), default=None)


def _has(cluster: ClusterSpec, profile: Profile) -> bool:
    return _contains(cluster.to_document(), profile.model_dump(mode="json", exclude_unset=True))


def _contains(whole: Any, part: Any) -> bool:
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(key in whole and _contains(whole[key], value) for key, value in part.items())
    return bool(whole == part)


def toml_value(value: Any) -> str:
    """`value` as TOML has it on one line."""
    if isinstance(value, dict):
        pairs = (f"{toml_value(str(key))} = {toml_value(one)}" for key, one in value.items() if one is not None)
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, float):
        return repr(value)
    # JSON has a way of its own with what is neither printable nor ASCII, which TOML knows too, but for DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def describe_config(host: PluginHost) -> dict[str, Any]:
    """The configuration for `plugins` and `doctor`: where it is, what is in it, or what is wrong with it."""
    path, problem, config = config_path(), "", UserConfig()
    try:
        config = read_user_config(host)
    except TunewrightError as error:
        problem = str(error)
    return {
        "path": str(path),
        "is_there": path.is_file(),
        "error": problem,
        "default_cluster": config.defaults.cluster,
        "profiles": [
            {"name": name, "cluster": profile.name, "sets": profile.model_dump(mode="json", exclude_unset=True)}
            for name, profile in sorted(config.profiles.items())
        ],
        "prices": {name: price.to_document() for name, price in sorted(config.prices.items())},
    }


def config_lines(config: Mapping[str, Any]) -> Iterator[str]:
    """The same in words."""
    if config["error"]:
        yield f"configuration {config['path']}: NOT usable"
        yield from (f"    {line}" for line in config["error"].splitlines())
        return
    if not config["is_there"]:
        yield f"configuration: none ({config['path']})"
        return
    yield f"configuration {config['path']}"
    if config["default_cluster"]:
        yield f"    default cluster: {config['default_cluster']}"
    for profile in config["profiles"]:
        sets = ", ".join(f"{key} = {toml_value(one)}" for key, one in profile["sets"].items() if key != "name")
        yield f"    profile {profile['name']}: {profile['cluster']}{f'  {sets}' if sets else ''}"
    for name, price in config["prices"].items():
        per = "node" if price["per_node_hour"] is not None else "GPU"
        amount = price["per_node_hour"] if price["per_node_hour"] is not None else price["per_gpu_hour"]
        yield f"    price of {name}: {amount:g} {price['currency']} for a {per} and hour"
