"""Listens to what becomes of runs, in the job and in the launcher, and tells `[notifications]`' webhook."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tunewright.contracts.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunewright.contracts.checkpoints import CheckpointRef
    from tunewright.contracts.experiment import ExperimentSpec, NotificationsSpec, ResolvedExperiment
    from tunewright.contracts.jobs import JobHandle, JobSpec
    from tunewright.contracts.preflight import Finding
    from tunewright.contracts.provenance import ProvenanceRecord
    from tunewright.notify_webhook.messages import Event


@hookimpl
def tunewright_preflight(experiment: ResolvedExperiment) -> Sequence[Finding]:
    """Whether the webhook's URL is to be had where it is needed."""
    if experiment.spec.notifications is None:
        return ()
    from tunewright.notify_webhook.checks import findings_of

    return tuple(findings_of(experiment))


@hookimpl
def tunewright_run_submitted(handle: JobHandle, job: JobSpec) -> None:
    """Tell of it, where `on` has it. Called in the launcher."""
    settings = _settings(job.experiment)
    if settings is None or "submitted" not in settings.on:
        return
    from tunewright.notify_webhook.messages import submitted

    _tell(settings, submitted(handle, job), job.secrets, job.run_dir)


@hookimpl
def tunewright_checkpoint_saved(checkpoint: CheckpointRef, job: JobSpec) -> None:
    """Tell of it, where `on` has it. Called in the job, between two steps: tried once, for a short time."""
    settings = _settings(job.experiment)
    if settings is None or "checkpoint" not in settings.on:
        return
    from tunewright.notify_webhook.messages import checkpoint_saved

    _tell(settings, checkpoint_saved(checkpoint, job), {}, job.run_dir, is_hurried=True)


@hookimpl
def tunewright_run_finished(record: ProvenanceRecord) -> None:
    """Tell how it ended, where `on` has it. Called once, in the job or in the launcher."""
    document = record.hyperparameters.get("notifications")
    if not document:
        return
    from tunewright.contracts.experiment import NotificationsSpec
    from tunewright.notify_webhook.messages import finished

    settings, event = NotificationsSpec.model_validate(document), finished(record)
    if event.kind in settings.on:
        secrets = record.hyperparameters.get("cluster", {}).get("secrets", {})
        home = os.environ.get("TUNEWRIGHT_HOME")
        _tell(settings, event, secrets, f"{home}/runs/{record.run}" if home else None)


def _settings(experiment: ExperimentSpec | None) -> NotificationsSpec | None:
    return experiment.notifications if experiment is not None else None


def _tell(
    settings: NotificationsSpec, event: Event, secrets: Mapping[str, str], run_dir: str | None, is_hurried: bool = False
) -> None:
    """Raises Unavailable where it cannot: who has called the hook says so, and goes on."""
    from tunewright.notify_webhook.messages import body_of
    from tunewright.notify_webhook.posting import post
    from tunewright.notify_webhook.webhook_url import find_url

    url = find_url(settings.webhook_variable, secrets, run_dir)
    post(url, body_of(event, settings.format), is_hurried)
