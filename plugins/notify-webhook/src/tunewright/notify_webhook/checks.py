"""Preflight: whether the webhook's URL is to be had where it is needed."""

from __future__ import annotations

import os
from collections.abc import Iterator

from tunewright.contracts.errors import Unavailable
from tunewright.contracts.experiment import ResolvedExperiment
from tunewright.contracts.preflight import Finding, Severity
from tunewright.notify_webhook.webhook_url import find_url

_BY_THE_JOB = ("checkpoint", "succeeded")
"""What the job itself tells of; the rest the launcher does."""

_PATH = "notifications.webhook_variable"


def findings_of(experiment: ResolvedExperiment) -> Iterator[Finding]:
    """What is wrong with the `[notifications]` of `experiment`. One is an error where nobody could be told at all."""
    settings, cluster = experiment.spec.notifications, experiment.spec.cluster
    if settings is None:
        return
    variable = settings.webhook_variable
    hint = f'add `{variable} = "NAME"` to [cluster.secrets], NAME being the secret that holds the URL'
    if variable in cluster.environment:
        message = f"{variable} is in [cluster.environment], which is written down: a webhook's URL is a secret"
        yield Finding(code="webhook-written-down", path=_PATH, message=message, hint=hint)
    elif variable not in cluster.secrets and not os.environ.get(variable):
        message = f"{variable} is neither in [cluster.secrets] nor a variable here"
        yield Finding(code="webhook-unknown", path=_PATH, message=message, hint=hint)
    elif variable not in cluster.secrets and (events := [event for event in settings.on if event in _BY_THE_JOB]):
        message = f"the job tells of {' and '.join(events)}, and {variable} is set for the launcher only"
        yield Finding(code="webhook-not-in-job", severity=Severity.WARNING, path=_PATH, message=message, hint=hint)
    elif (events := [event for event in settings.on if event not in _BY_THE_JOB]) and not _is_here(experiment):
        message = f"the launcher tells of {' and '.join(events)}, and {variable} is known to the job only"
        hint = f"set the variable {variable} here too"
        yield Finding(code="webhook-not-here", severity=Severity.WARNING, path=_PATH, message=message, hint=hint)


def _is_here(experiment: ResolvedExperiment) -> bool:
    settings = experiment.spec.notifications
    assert settings is not None
    try:
        find_url(settings.webhook_variable, experiment.spec.cluster.secrets, f"{experiment.home}/runs/any")
    except Unavailable:
        return False
    return True
