"""Every hook, in the order they are called. Implement the ones you need; take only the arguments you need.

A plugin is a module named by an entry point in the group `tunewright`. In it, mark each function with `hookimpl`:

    from tunewright.contracts.hookspecs import hookimpl

    @hookimpl
    def tunewright_register_clusters(register): ...

Hooks register, judge and listen; the verbs of a cluster are methods (`tunewright.contracts.clusters.Cluster`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import pluggy

if TYPE_CHECKING:
    from tunewright.contracts.checkpoints import CheckpointRef
    from tunewright.contracts.clusters import ClusterRegistry
    from tunewright.contracts.costs import CostEstimate
    from tunewright.contracts.dataset_plugins import ChatTemplateRegistry, DatasetFormatRegistry
    from tunewright.contracts.datasets import CachedDataset, DatasetRequest
    from tunewright.contracts.environments import EnvironmentRef, EnvironmentRequest
    from tunewright.contracts.experiment import ResolvedExperiment
    from tunewright.contracts.jobs import JobHandle, JobSpec
    from tunewright.contracts.preflight import Finding
    from tunewright.contracts.provenance import ProvenanceRecord
    from tunewright.contracts.variants import VariantRegistry

PROJECT = "tunewright"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

JUDGED_TABLES = f"{PROJECT}_judged_tables"

Function = TypeVar("Function", bound=Callable[..., object])


def judges(*tables: str) -> Callable[[Function], Function]:
    """Mark a `tunewright_preflight` that looks at these tables of the experiment only (`judges("environment")`).

    Then it is asked once for all points of a sweep that have them alike, instead of a thousand times the same.
    """

    def mark(function: Function) -> Function:
        setattr(function, JUDGED_TABLES, tables)
        return function

    return mark


@hookspec
def tunewright_register_clusters(register: ClusterRegistry) -> None:
    """Add the clusters this plugin brings: `register.add(ClusterInfo(...))`.

    Called once, before anything is read. Import neither torch nor a cluster's SDK here. If it raises, the plugin
    is reported by name and left out; the others stay.
    """


@hookspec
def tunewright_register_variants(register: VariantRegistry) -> None:
    """Add the training variants this plugin brings: `register.add(VariantInfo(...))`.

    Called once, in the launcher and in the job. Import torch in the variant's own module, not here. If it raises, the
    plugin is reported by name and left out.
    """


@hookspec
def tunewright_register_dataset_formats(register: DatasetFormatRegistry) -> None:
    """Add row formats: `register.add(DatasetFormat(...))`. Called once, in the dataset-cacher."""


@hookspec
def tunewright_register_chat_templates(register: ChatTemplateRegistry) -> None:
    """Add chat templates: `register.add(ChatTemplate(...))`. Called once, in the dataset-cacher."""


@hookspec
def tunewright_preflight(experiment: ResolvedExperiment) -> Sequence[Finding]:  # type: ignore[empty-body]  # a spec has no body
    """Judge the experiment. An `error` refuses the run; all plugins' findings are joined.

    Called after resolving, before anything is built or paid for, and by `launcher plan`: write nothing, send nothing.
    If it raises, that is an error finding with the plugin's name. Each point of a sweep is judged: see `judges`.
    """


@hookspec(firstresult=True)
def tunewright_provide_dataset(dataset: DatasetRequest, cache_root: str) -> CachedDataset | None:
    """Give the prepared dataset, preparing it below `cache_root` where needed. None leaves it to the next plugin.

    The first effect outside the run's directory. The dataset-cacher answers last. With `dataset.plan_only` compute the
    digest only.
    """


@hookspec(firstresult=True)
def tunewright_provide_environment(environment: EnvironmentRequest) -> EnvironmentRef | None:
    """Give the environment asked for, building it where needed. None leaves it to the next plugin.

    Called after the dataset. The env-builder answers last. With `environment.plan_only` say what it would be, and do
    nothing. Raise EnvironmentBuildFailed or another error of the tree.
    """


@hookspec(firstresult=True)
def tunewright_estimate_cost(job: JobSpec, hours: float | None) -> CostEstimate | None:
    """Say what `job` will take and cost. None leaves it to the next plugin.

    Called before the job starts, and by `launcher plan`: write nothing, send nothing. `hours` is what the launcher
    thinks it will run, by earlier runs, or None. The launcher answers last, with the user's own table of prices.
    """


@hookspec
def tunewright_run_submitted(handle: JobHandle, job: JobSpec) -> None:
    """The cluster has accepted the job. What a listener raises is reported; it does not harm the run."""


@hookspec
def tunewright_checkpoint_saved(checkpoint: CheckpointRef, job: JobSpec) -> None:
    """A checkpoint is whole. Called in the job, on rank 0, between two steps: be quick. Exceptions are reported."""


@hookspec
def tunewright_run_finished(record: ProvenanceRecord) -> None:
    """The run has ended and its record is written. Called once, by whoever wrote the record: the job, or the launcher
    where the job was killed. Exceptions are reported.
    """
