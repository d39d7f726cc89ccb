"""From a plan to objects on the server: what must be there, names filled in, made once. Sends what was planned."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from tunewright.clusters.kubernetes.api import Api
from tunewright.clusters.kubernetes.names import KEY, NAME, object_name
from tunewright.clusters.kubernetes.place import Place, Server
from tunewright.clusters.kubernetes.plan import PLAN_FILE, SERVICE_FILE
from tunewright.clusters.kubernetes.pods import START_ANNOTATION
from tunewright.contracts.errors import SubmissionRefused
from tunewright.contracts.jobs import SubmissionPlan


def place_of(plan: SubmissionPlan, key: str) -> Place:
    """Where the job `key` of this plan is, or will be."""
    job = json.loads(plan.text_of(PLAN_FILE))
    server = Server(job["kubeconfig"], job["context"], job["namespace"])
    return Place(server, job["render"], object_name(job["run"], job["run_dir"], key), job["nodes"], job["run_dir"])


def send(api: Api, plan: SubmissionPlan, place: Place, key: str) -> None:
    """Make the objects that are not there. Raises SubmissionRefused or Unavailable.

    The job comes first and owns the service, which so goes with it. Cut short in between, a second call makes it.
    """
    if api.get(place.render, place.name) is None:
        _need_secrets(api, plan, place)
    job = api.create(place.render, filled_in(plan.files[0].text, place.name, key))
    if SERVICE_FILE in {file.name for file in plan.files}:
        service = filled_in(plan.text_of(SERVICE_FILE), place.name, key)
        owner = {"apiVersion": job["apiVersion"], "kind": job["kind"], "name": place.name}
        service["metadata"]["ownerReferences"] = [{**owner, "uid": job["metadata"]["uid"]}]
        api.create_service(service)


def filled_in(text: str, name: str, key: str) -> dict[str, Any]:
    """The planned object, with the submission's words in their places. What the job itself says stays as it is."""
    known = {NAME: name, f"{NAME}-0.{NAME}": f"{name}-0.{name}", KEY: key}
    known[f"{NAME}-node-0-0.{NAME}"] = f"{name}-node-0-0.{name}"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    document: dict[str, Any] = _replaced(yaml.load(text, Loader=loader), known)
    return document


def _replaced(value: Any, known: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: one if name == START_ANNOTATION else _replaced(one, known) for name, one in value.items()}
    if isinstance(value, list):
        return [_replaced(one, known) for one in value]
    return known.get(value, value) if isinstance(value, str) else value


def _need_secrets(api: Api, plan: SubmissionPlan, place: Place) -> None:
    """A pod whose secret is not there would wait for it without end. Where we may not look, Kubernetes finds out."""
    secrets = json.loads(plan.text_of(PLAN_FILE))["secrets"]
    for variable, reference in secrets.items():
        name, _, key = reference.rpartition("/")
        if api.has_secret(name, key) is False:
            namespace = place.server.namespace
            hint = f"kubectl -n {namespace} create secret generic {name} --from-literal={key}=..."
            message = f"cluster.secrets.{variable}: there is no key `{key}` in a Secret `{name}` of `{namespace}`"
            raise SubmissionRefused(message, hint)
