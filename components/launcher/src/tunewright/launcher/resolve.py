"""From the experiment as written to one in which nothing is left to guess: plugin options parsed by their owners."""

from __future__ import annotations

from typing import Any

from tunewright.contracts.clusters import ClusterInfo
from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.contracts.experiment import ExperimentSpec, ResolvedExperiment
from tunewright.contracts.experiment_file import LoadedExperiment, parse_spec
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.spec import Spec
from tunewright.contracts.variants import VariantInfo


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
        return parse_spec(info.options_type, options, "experiment", f"{path.split('.')[0]}.options")
    except InvalidExperiment as error:
        problems.extend(error.problems or (Problem(path, error.message, error.hint),))
        return None
