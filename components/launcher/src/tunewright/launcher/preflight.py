"""What can be known before anything is built or paid for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tunewright.contracts.adapters import AdapterOptions
from tunewright.contracts.clusters import Capability, Cluster, ClusterInfo
from tunewright.contracts.errors import PreflightFailed
from tunewright.contracts.experiment import ExperimentSpec, ResolvedExperiment
from tunewright.contracts.experiment_file import LoadedExperiment
from tunewright.contracts.plugins import KnownFindings, PluginHost
from tunewright.contracts.preflight import Finding, PreflightReport, Severity
from tunewright.contracts.spec import Spec
from tunewright.contracts.stages import Stage, told_by_stage
from tunewright.contracts.variants import VariantInfo
from tunewright.launcher.resolve import variant_options


def run_preflight(
    experiment: ResolvedExperiment,
    host: PluginHost,
    cluster: Cluster,
    findings: Iterable[Finding],
    known: KnownFindings | None = None,
) -> PreflightReport:
    """Every finding: those of the checkout, our own, the plugins', and the cluster's.

    Whoever judges many gives `known`, empty at first.
    """
    spec = experiment.spec
    info, variant = host.clusters.get(spec.cluster.name), host.variants.get(spec.training.variant)
    return PreflightReport(
        findings=(
            *findings,
            *capability_findings(spec, info),
            *training_findings(spec, variant),
            *example_findings(spec, variant, host),
            *host.preflight(experiment, known),
            *cluster.check(),
        )
    )


def joint_report(stages: Sequence[Stage | None], reports: Sequence[PreflightReport]) -> PreflightReport:
    """The reports of all stages as one, each finding with its stage; what is found in every stage alike once."""
    findings = told_by_stage(
        stages,
        [report.findings for report in reports],
        lambda finding: finding.path,
        lambda finding, path: finding.model_copy(update={"path": path}),
    )
    return PreflightReport(findings=tuple(findings))


def successor_findings(number: int, stages: Sequence[LoadedExperiment], host: PluginHost) -> Iterator[Finding]:
    """What keeps a later stage from training on the model of stage `number`."""
    stage, spec = stages[number].stage, stages[number].spec
    later = [one.stage.name for one in stages if one.stage and one.spec.job == "train" and _starts_from(one, stage)]
    if not later or not _stage_leaves_adapters(number, stages, host):
        return
    is_export = spec.job == "export"
    yield Finding(
        code="stage-leaves-adapters",
        path="export.merge" if is_export else "training.variant",
        message=f"is {'false' if is_export else f'`{spec.training.variant}`'}, which leaves adapters, and stage "
        f"`{later[0]}` cannot start from adapters alone",
        hint='put a stage with `job = "export"` between them, which merges adapters into their base'
        + ("" if is_export else "; or train all weights in this stage (`full`)"),
    )


def _starts_from(later: LoadedExperiment, stage: Stage | None) -> bool:
    return stage is not None and later.stage is not None and later.stage.before == stage.name


def _stage_leaves_adapters(number: int, stages: Sequence[LoadedExperiment], host: PluginHost) -> bool:
    """Whether what stage `number` leaves is adapters, as far as the file tells."""
    spec = stages[number].spec
    if spec.job == "train":
        return leaves_adapters(variant_options(spec, host.variants.get(spec.training.variant)))
    before = [place for place, one in enumerate(stages) if _starts_from(stages[number], one.stage)]
    return not spec.export.merge and bool(before) and _stage_leaves_adapters(before[0], stages, host)


def leaves_adapters(options: Spec) -> bool:
    """Whether a training with these options leaves adapters and no model: all our variants share their options."""
    return isinstance(options, AdapterOptions) or any(
        isinstance(getattr(options, name), AdapterOptions) for name in type(options).model_fields
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
    """What the experiment wants of the training and the variant does not have; and what trackers need."""
    if spec.job == "train" and spec.training.strategy not in variant.strategies:
        allowed = ", ".join(f"`{name}`" for name in sorted(variant.strategies))
        yield Finding(
            code="strategy-not-available",
            path="training.strategy",
            message=f"is `{spec.training.strategy}`, but variant `{variant.name}` trains under: {allowed}",
            hint=variant.refusals.get(spec.training.strategy, ""),
        )
    yield from tracking_findings(spec)


def example_findings(spec: ExperimentSpec, variant: VariantInfo, host: PluginHost) -> Iterator[Finding]:
    """Sources whose rows are not what the variant trains on. Unknown formats are the dataset-cacher's to tell."""
    words = {1: "conversations", 2: "pairs of a chosen and a rejected answer"}
    formats, wanted, who = host.dataset_formats, variant.conversations_per_row, f"variant `{variant.name}` trains on"
    own = spec.evaluation_dataset
    if spec.job == "export":  # which reads no rows
        return
    if spec.job == "evaluate":
        wanted, who = 1, "an evaluate job asks for the answers of"
    for name, mix in (("dataset", spec.dataset.mix), ("evaluation", own.mix if own else ())):
        for index, source in enumerate(mix):
            given = formats.get(source.format).conversations_per_row if source.format in formats else None
            if given in words and given != wanted:
                fitting = [one.name for one in formats if one.conversations_per_row == wanted]
                yield Finding(
                    code="format-not-trained-on",
                    path=f"{name}.mix[{index}].format",
                    message=f"is `{source.format}`, which gives {words[given]}, but {who} {words[wanted]}",
                    hint=f"formats of those: {', '.join(fitting)}",
                )


def tracking_findings(spec: ExperimentSpec) -> Iterator[Finding]:
    """What would end the run before its first step, or leave out what was asked for."""
    tracking, given = spec.tracking, spec.cluster.environment.keys() | spec.cluster.secrets.keys()
    # An image may bring variables of its own.
    if "mlflow" in tracking.to and "MLFLOW_TRACKING_URI" not in given and spec.environment.kind == "pex":
        yield Finding(
            code="tracking-without-address",
            path="tracking.to",
            message="has `mlflow`, but the job is not told where its server is",
            hint="set MLFLOW_TRACKING_URI in [cluster.environment]: jobs do not see this shell's variables",
        )
    if tracking.registered_model and "mlflow" not in tracking.to:
        yield Finding(
            code="registry-without-mlflow",
            path="tracking.registered_model",
            message=f"is {tracking.registered_model}, but tracking.to has no `mlflow`, whose registry it is",
            hint='tracking.to = ["mlflow"]',
        )
