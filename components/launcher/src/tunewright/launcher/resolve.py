"""From the experiment as written to one in which nothing is left to guess: plugin options parsed by their owners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunewright.contracts.clusters import ClusterInfo
from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.contracts.experiment import ClusterSpec, ExperimentSpec, ResolvedExperiment, TrainingSpec
from tunewright.contracts.experiment_file import LoadedExperiment, load_stages, parse_spec, read_document
from tunewright.contracts.plugins import PluginHost, options_type_of
from tunewright.contracts.spec import Spec
from tunewright.contracts.stages import problems_by_stage, split_stages
from tunewright.contracts.variants import VariantInfo


def load_with_options(path: Path, assignments: Sequence[str], host: PluginHost) -> tuple[LoadedExperiment, ...]:
    """The experiment of each stage of the file, or its only one.

    Where the file is wrong, what is wrong with its plugins' options is told with the rest.
    """
    try:
        return load_stages(path, assignments)
    except InvalidExperiment as error:
        if not error.problems:  # it could not even be read
            raise
        more = _option_problems(path, assignments, host)
        raise InvalidExperiment.from_problems(str(path), (*error.problems, *more)) from None


def _option_problems(path: Path, assignments: Sequence[str], host: PluginHost) -> list[Problem]:
    """What the plugins say about a file that is wrong elsewhere."""
    try:
        stages = split_stages(read_document(path, assignments)[1], str(path))
    except InvalidExperiment:  # its stages are wrong as such: that is told already
        return []
    found = [_option_problems_of(one.document, host) for one in stages]
    return problems_by_stage([one.stage for one in stages], found)


def _option_problems_of(document: dict[str, Any], host: PluginHost) -> list[Problem]:
    """Only the tables that can be read are looked at."""
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


@dataclass(frozen=True)
class Known:
    """What is known already of experiments that are much alike. Empty at first."""

    options: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)
    """Options with every default, by table, by whose they are, and by how they were written."""

    clusters: dict[int, tuple[ClusterSpec, ClusterSpec]] = field(default_factory=dict)
    """`[cluster]` as written and filled in, by the identity of the first: points of a sweep share it."""


def resolve_stages(
    stages: Sequence[LoadedExperiment], host: PluginHost, known: Known | None = None
) -> tuple[ResolvedExperiment, ...]:
    """Each stage with every default filled in. Raises InvalidExperiment with every problem of all plugins.

    Whoever resolves many that are much alike gives one `known` for all: equal options are parsed once.
    """
    found: list[list[Problem]] = [[] for _ in stages]
    known = Known() if known is None else known
    resolved = [_resolve(loaded, host, problems, known) for loaded, problems in zip(stages, found, strict=True)]
    if any(found):
        problems = problems_by_stage([loaded.stage for loaded in stages], found)
        raise InvalidExperiment.from_problems(str(stages[0].path), problems)
    return tuple(one for one in resolved if one is not None)


def _resolve(
    loaded: LoadedExperiment, host: PluginHost, problems: list[Problem], known: Known
) -> ResolvedExperiment | None:
    """The experiment with its plugins' options filled in, or None; what is wrong is added to `problems`."""
    spec = loaded.spec
    cluster = _filled_cluster(spec.cluster, host, problems, known)
    options = _filled(
        host.variants.get, spec.training.variant, "training.variant", spec.training.options, problems, known
    )
    if cluster is None or options is None:
        return None
    training = spec.training.model_copy(update={"options": options}) if options else spec.training
    filled = spec.model_copy(update={"cluster": cluster, "training": training})
    return ResolvedExperiment(spec=filled, project_root=str(loaded.project_root), home=str(loaded.home))


def _filled_cluster(
    cluster: ClusterSpec, host: PluginHost, problems: list[Problem], known: Known
) -> ClusterSpec | None:
    """`[cluster]` with every default of its plugin; None where its options are wrong."""
    if id(cluster) not in known.clusters:
        options = _filled(host.clusters.get, cluster.name, "cluster.name", cluster.options, problems, known)
        if options is None:
            return None
        known.clusters[id(cluster)] = cluster, cluster.model_copy(update={"options": options})
    return known.clusters[id(cluster)][1]


def _filled(
    get: Any, name: str, path: str, options: dict[str, Any], problems: list[Problem], known: Known
) -> dict[str, Any] | None:
    """The plugin's options with every default; None where they are wrong."""
    key = (path, name, repr(options))
    if key not in known.options:
        parsed = _options(get, name, path, options, problems)
        if parsed is None:
            return None
        known.options[key] = parsed.to_document()
    return known.options[key]


def cluster_options(spec: ExperimentSpec, info: ClusterInfo) -> Spec:
    """`[cluster.options]` as the cluster's own type."""
    return parse_spec(options_type_of(info), dict(spec.cluster.options), "experiment", "cluster.options")


def variant_options(spec: ExperimentSpec, info: VariantInfo) -> Spec:
    """`[training.options]` as the variant's own type."""
    return parse_spec(options_type_of(info), dict(spec.training.options), "experiment", "training.options")


def _options(get: Any, name: str, path: str, options: dict[str, Any], problems: list[Problem]) -> Spec | None:
    """The plugin's options, parsed; what is wrong is added to `problems`."""
    try:
        info: ClusterInfo | VariantInfo = get(name, path)
        return parse_spec(options_type_of(info), options, "experiment", f"{path.partition('.')[0]}.options")
    except InvalidExperiment as error:
        problems.extend(error.problems or (Problem(path, error.message, error.hint),))
        return None
