"""What can be known before anything is built or paid for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tunewright.contracts.clusters import Capability, Cluster, ClusterInfo
from tunewright.contracts.errors import PreflightFailed
from tunewright.contracts.experiment import ExperimentSpec, ResolvedExperiment
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.preflight import Finding, PreflightReport, Severity
from tunewright.contracts.variants import VariantInfo


def run_preflight(
    experiment: ResolvedExperiment, host: PluginHost, cluster: Cluster, findings: Iterable[Finding]
) -> PreflightReport:
    """Every finding: those of the checkout, our own, the plugins', and the cluster's."""
    spec = experiment.spec
    info, variant = host.clusters.get(spec.cluster.name), host.variants.get(spec.training.variant)
    return PreflightReport(
        findings=(
            *findings,
            *capability_findings(spec, info),
            *training_findings(spec, variant),
            *host.preflight(experiment),
            *cluster.check(),
        )
    )


def refuse_errors(report: PreflightReport) -> None:
    """Raise PreflightFailed where the report has an error."""
    if report.errors:
        lines = "".join(f"\n  {finding}" for finding in report.errors)
        raise PreflightFailed(f"preflight refused{lines}", "", report)


def notes(report: PreflightReport) -> list[str]:
    """What preflight has to say that does not refuse."""
    return [f"{finding.severity}: {finding}" for finding in report.findings if finding.severity is not Severity.ERROR]


def capability_findings(spec: ExperimentSpec, info: ClusterInfo) -> Iterator[Finding]:
    """What the experiment wants of the cluster and the cluster does not have."""
    cluster = spec.cluster
    wanted = (
        (cluster.nodes > 1, Capability.MULTINODE, "cluster.nodes", cluster.nodes, "runs jobs on one node"),
        (bool(cluster.secrets), Capability.SECRETS, "cluster.secrets", ", ".join(cluster.secrets), "keeps no secrets"),
        (cluster.max_retries > 0, Capability.RETRIES, "cluster.max_retries", cluster.max_retries, "does not retry"),
        (spec.environment.kind == "pex", Capability.PEX, "environment.kind", "pex", "does not run PEXes"),
        (spec.environment.kind == "image", Capability.IMAGES, "environment.kind", "image", "does not run images"),
    )
    for is_wanted, capability, path, value, why in wanted:
        if is_wanted and capability not in info.capabilities:
            yield Finding(
                code=f"cluster-without-{capability.value.replace('_', '-')}",
                path=path,
                message=f"is {value}, but cluster `{info.name}` {why}",
                hint="choose another cluster: `launcher plugins` lists what each can do",
            )


def training_findings(spec: ExperimentSpec, variant: VariantInfo) -> Iterator[Finding]:
    """What the experiment wants of the training and the variant does not have."""
    if spec.training.strategy not in variant.strategies:
        allowed = ", ".join(f"`{name}`" for name in sorted(variant.strategies))
        yield Finding(
            code="strategy-not-available",
            path="training.strategy",
            message=f"is `{spec.training.strategy}`, but variant `{variant.name}` trains under: {allowed}",
        )
    if spec.tracking.to:
        yield Finding(
            code="tracking-not-available",
            path="tracking.to",
            message=f"is {list(spec.tracking.to)}, but this version of the trainer writes metrics.jsonl only",
            hint="leave it empty",
        )
