"""From a plan to an experiment: what only now is known is put in its place, and the experiment made once for a key."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from beaker import beaker_pb2 as pb2
from beaker.exceptions import BeakerExperimentConflict, BeakerImageNotFound, BeakerNotFoundError
from tunewright.clusters.beaker.handles import Place
from tunewright.clusters.beaker.images import ensure_image
from tunewright.clusters.beaker.plan import EITHER, SPEC_FILE, SUBMISSION_FILE, USER
from tunewright.clusters.beaker.service import Service, iso
from tunewright.contracts.errors import SubmissionRefused
from tunewright.contracts.jobs import JobHandle, SubmissionPlan

_LONGEST_RUN_NAME = 64


def submit_plan(service: Service, plan: SubmissionPlan, key: str) -> JobHandle:
    """The experiment of `key`, made where it is not there. The name decides between two who submit at once."""
    known = json.loads(plan.text_of(SUBMISSION_FILE))
    name = experiment_name(known["run"], known["run_dir"], key)
    workspace_id = service.workspace_id(known["workspace"])
    workload = service.find_workload(name)
    if workload is None:
        spec = _filled_in(service, json.loads(plan.text_of(SPEC_FILE)), known, workspace_id)
        workload = _make(service, spec, name, workspace_id)
    _group(service, workspace_id, known["groups"], workload.experiment.id)
    experiment = workload.experiment
    place = Place(
        run_dir=known["run_dir"], nodes=known["nodes"], workspace_id=experiment.workspace_id or workspace_id,
        created_at=iso(experiment.created), url=f"{service.address}/ex/{experiment.id}",
    )  # fmt: skip
    return place.to_handle(experiment.id)


def experiment_name(run: str, run_dir: str, key: str) -> str:
    """One name for a key: Beaker has a name only once for each user."""
    digest = hashlib.sha256(json.dumps([run_dir, key]).encode()).hexdigest()[:16]
    readable = re.sub(r"[^A-Za-z0-9_.-]", "-", run)[:_LONGEST_RUN_NAME].lstrip("-.")
    return f"{readable or 'run'}-{digest}"


def _make(service: Service, spec: dict[str, Any], name: str, workspace_id: str) -> pb2.Workload:
    try:
        answer = service.post(
            f"workspaces/{workspace_id}/experiments", spec, {"name": name}, BeakerExperimentConflict(name)
        )
    except BeakerExperimentConflict:
        workload = service.find_workload(name)
        if workload is None:
            message = f"Beaker has an experiment called `{name}` that we do not see"
            raise SubmissionRefused(message, "was it deleted? Launch the run under another name") from None
        return workload
    made = service.workload(str(answer["id"]))
    if made is None:
        raise SubmissionRefused(f"Beaker made experiment `{name}` and does not find it: {answer}")
    return made


def _filled_in(service: Service, spec: dict[str, Any], known: dict[str, Any], workspace_id: str) -> dict[str, Any]:
    """The planned spec, with the names of images and secrets that stand for who submits."""
    task = spec["tasks"][0]
    image = task["image"].get("beaker", "")
    if known["upload"] is not None:
        name = image.removeprefix(f"{USER}/")
        task["image"] = {"beaker": ensure_image(service, workspace_id, name, known["upload"], known["budget"])}
    elif image:
        _need_image(service, image)
    for variable in task["envVars"]:
        if "secret" in variable:
            variable["secret"] = _secret(service, workspace_id, variable["name"], variable["secret"])
    return spec


def _need_image(service: Service, image: str) -> None:
    """A name that is not there is told now, not by a job that never starts."""
    try:
        service.client.image.get(image)
    except (BeakerImageNotFound, BeakerNotFoundError):
        raise SubmissionRefused(f"cluster.options.image: Beaker has no image `{image}`") from None


def _secret(service: Service, workspace_id: str, variable: str, planned: str) -> str:
    """The first of the planned names that the workspace has."""
    names = [name.replace(USER, service.user) for name in planned.split(EITHER)]
    for name in names:
        if service.has_secret(workspace_id, name):
            return name
    said = " or ".join(f"`{name}`" for name in names)
    hint = f"`beaker secret write {names[-1]} VALUE` in the workspace"
    raise SubmissionRefused(f"cluster.secrets.{variable}: the workspace has no secret {said}", hint)


def _group(service: Service, workspace_id: str, wanted: list[str], experiment_id: str) -> None:
    """Put the experiment into its groups, which are made where they are not there. Again and again, to one effect."""
    there = service.groups(workspace_id) if wanted else {}
    for name in wanted:
        group_id = there.get(name) or service.make_group(workspace_id, name.rpartition("/")[2])
        service.add_to_group(group_id, experiment_id)
