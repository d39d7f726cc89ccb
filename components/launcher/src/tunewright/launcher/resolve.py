"""From the experiment as written to one in which nothing is left to guess: plugin options parsed by their owners."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunewright.contracts.clusters import ClusterInfo
from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.contracts.experiment import ClusterSpec, ExperimentSpec, ResolvedExperiment, TrainingSpec
from tunewright.contracts.experiment_file import LoadedExperiment, apply_assignment, load_experiment, parse_spec
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.spec import Spec
from tunewright.contracts.variants import VariantInfo


def load_with_options(path: Path, assignments: Sequence[str], host: PluginHost) -> LoadedExperiment:
    """The experiment file. Where it is wrong, what is wrong with its plugins' options is told with the rest."""
    try:
        return load_experiment(path, assignments)
    except InvalidExperiment as error:
        if not error.problems:  # it could not even be read
            raise
        more = _option_problems(path, assignments, host)
        raise InvalidExperiment.from_problems(str(path), (*error.problems, *more)) from None


def _option_problems(path: Path, assignments: Sequence[str], host: PluginHost) -> list[Problem]:
    """What the plugins say about a file that is wrong elsewhere: only the tables that can be read are looked at."""
    document = tomllib.loads(path.read_text())
    for assignment in assignments:
        apply_assignment(document, assignment)
    problems: list[Problem] = []
    for table, key, spec_type, get in (
        ("cluster", "name", ClusterSpec, host.clusters.get),
        ("training", "variant", TrainingSpec, host.variants.get),
    ):
        values = document.get(table, {})
        name = values.get(key, spec_type.model_fields[key].default) if isinstance(values, dict) else None
        options = values.get("options", {}) if isinstance(values, dict) else None
        if isinstance(name, str) and isinstance(options, dict):
            _options(get, name, f"{table}.{key}", options, problems)
    return problems


def resolve_experiment(loaded: LoadedExperiment, host: PluginHost) -> ResolvedExperiment:
    """The experiment with every default filled in. Raises InvalidExperiment with every problem of all plugins."""
    spec = loaded.spec
    problems: list[Problem] = []
    cluster = _options(host.clusters.get, spec.cluster.name, "cluster.name", spec.cluster.options, problems)
    variant = _options(host.variants.get, spec.training.variant, "training.variant", spec.training.options, problems)
    if problems:
        raise InvalidExperiment.from_problems(str(loaded.path), problems)
    assert cluster is not None and variant is not None
    filled = spec.model_copy(
        update={
            "cluster": spec.cluster.model_copy(update={"options": cluster.to_document()}),
            "training": spec.training.model_copy(update={"options": variant.to_document()}),
        }
    )
    return ResolvedExperiment(spec=filled, project_root=str(loaded.project_root), home=str(loaded.home))


def cluster_options(spec: ExperimentSpec, info: ClusterInfo) -> Spec:
    """`[cluster.options]` as the cluster's own type."""
    return parse_spec(info.options_type, dict(spec.cluster.options), "experiment", "cluster.options")


def _options(get: Any, name: str, path: str, options: dict[str, Any], problems: list[Problem]) -> Spec | None:
    """The plugin's options, parsed; what is wrong is added to `problems`."""
    try:
        info: ClusterInfo | VariantInfo = get(name, path)
        return parse_spec(info.options_type, options, "experiment", f"{path.partition('.')[0]}.options")
    except InvalidExperiment as error:
        problems.extend(error.problems or (Problem(path, error.message, error.hint),))
        return None
