"""From a spec to an experiment and its tasks: everything it names is looked up before anything is made."""

from __future__ import annotations

from typing import Any

import yaml
from beaker import beaker_pb2 as pb2

from tunewright.beaker_emulator.identifiers import checked_name, new_id, new_name
from tunewright.beaker_emulator.moments import now
from tunewright.beaker_emulator.organization import Organization
from tunewright.beaker_emulator.quantities import size_bytes
from tunewright.beaker_emulator.refusals import Conflict, InvalidRequest, NotEmulated, NotFound
from tunewright.beaker_emulator.spec import DataMount, EnvVar, ExperimentSpec, TaskSpec, read_spec
from tunewright.beaker_emulator.store import Store

_MODES = {"readonly": pb2.MountMode.MOUNT_MODE_READ_ONLY, "readwrite": pb2.MountMode.MOUNT_MODE_READ_WRITE}
_CLUSTER = pb2.JobPlacementConstraintType.JOB_PLACEMENT_CONSTRAINT_TYPE_CLUSTER
_HOSTNAME = pb2.JobPlacementConstraintType.JOB_PLACEMENT_CONSTRAINT_TYPE_HOSTNAME


class Submission:
    """One spec of one user for one workspace."""

    def __init__(self, store: Store, organization: Organization, user: pb2.User, workspace: pb2.Workspace) -> None:
        self._store = store
        self._organization = organization
        self._user = user
        self._workspace = workspace

    def create(self, document: Any, name: str | None) -> pb2.Experiment:
        """The experiment, kept. Refused before anything is kept where a part of it cannot be."""
        spec = read_spec(document)
        self._organization.check_writer(self._user, self._workspace)
        budget_id = self._budget_id(spec)
        groups = [self._group(reference) for reference in spec.groups or ()]
        experiment = pb2.Experiment(
            id=new_id(),
            name=self._free_name(name),
            author_id=self._user.id,
            workspace_id=self._workspace.id,
            description=spec.description or "",
            created=now(),
        )
        for task in spec.tasks:
            experiment.tasks.extend(self._replicas(experiment, task, budget_id))
        self._store.specs.put(experiment.id, {"spec": document, "budget_id": budget_id, "author": self._user.name})
        self._store.experiments.put(experiment)
        for group in groups:
            self._store.members.put(group.id, [*self._store.members.get(group.id, []), experiment.id])
        return experiment

    def _free_name(self, name: str | None) -> str:
        if name is None:
            return new_name()
        checked_name(name, "an experiment")
        taken = self._store.experiments.find(lambda other: (other.name, other.author_id) == (name, self._user.id))
        if taken is not None:
            raise Conflict(f"the name {name!r} is already in use by experiment {taken.id}")
        return name

    def _budget_id(self, spec: ExperimentSpec) -> str:
        if spec.budget is not None:
            return self._organization.budget(spec.budget).id
        if self._workspace.budget_id:
            return self._workspace.budget_id
        raise InvalidRequest(f"budget is required: workspace {self._workspace.name!r} has none of its own")

    def _group(self, reference: str) -> pb2.Group:
        group = self._store.groups.find(
            lambda group: (
                reference in (group.id, group.full_name)
                or (reference == group.name and group.workspace_id == self._workspace.id)
            )
        )
        if group is None:
            raise NotFound(f"group {reference!r} not found")
        return group

    def _replicas(self, experiment: pb2.Experiment, spec: TaskSpec, budget_id: str) -> list[pb2.Task]:
        group_id = new_id()
        container = self._container(spec)
        tasks = []
        for rank in range(spec.replicas or 1):
            task = pb2.Task(
                id=new_id(),
                experiment_id=experiment.id,
                name=spec.name or "",
                author_id=self._user.id,
                created=now(),
                container_spec=container,
                system_details=self._system_details(spec, budget_id),
                status=pb2.WorkloadStatus.STATUS_SUBMITTED,
            )
            if spec.replicas is not None:
                _join_group(task.system_details.replica_group_details, spec, group_id, rank)
            tasks.append(task)
        return tasks

    def _container(self, spec: TaskSpec) -> pb2.ContainerSpec:
        container = pb2.ContainerSpec(
            command=spec.command,
            arguments=spec.arguments,
            environment_variables=[self._variable(variable) for variable in spec.env_vars or ()],
            mounts=[self._mount(mount) for mount in spec.datasets or ()],
            result_path=None if spec.result is None else spec.result.path,
            host_networking=spec.host_networking,
            resource_request=_resource_request(spec),
        )
        if spec.image.docker is not None:
            container.docker_reference = spec.image.docker
        else:
            container.image_id = self._image_id(spec.image.beaker or "")
        return container

    def _image_id(self, reference: str) -> str:
        image = self._store.images.find(lambda image: reference in (image.id, image.full_name))
        if image is None:
            raise NotFound(f"image {reference!r} not found")
        if not image.HasField("committed"):
            raise InvalidRequest(f"image {reference!r} is not committed")
        return image.id

    def _variable(self, variable: EnvVar) -> pb2.EnvironmentVariable:
        if variable.secret is not None:
            self._check_secret(variable.secret)
            return pb2.EnvironmentVariable(name=variable.name, secret_reference=variable.secret)
        return pb2.EnvironmentVariable(name=variable.name, literal=variable.value or "")

    def _check_secret(self, name: str) -> None:
        if name not in self._store.secrets.get(self._workspace.id, {}):
            raise NotFound(f"secret {name!r} not found in workspace {self._workspace.name!r}")

    def _mount(self, mount: DataMount) -> pb2.Mount:
        source = mount.source
        message = pb2.Mount(mount_path=mount.mount_path, sub_path=mount.sub_path)
        mode = "readonly"
        if source.beaker is not None:
            message.dataset_id = self._dataset_id(source.beaker)
        elif source.secret is not None:
            self._check_secret(source.secret)
            message.secret_reference = source.secret
        elif source.host_path is not None:
            message.host_path, mode = source.host_path, "readwrite"
        elif source.weka is not None:
            message.weka, mode = self._bucket(source.weka), "readwrite"
        elif source.volume is not None:
            raise NotEmulated("the emulator has no volumes")
        message.mode = _MODES[mount.mode or mode]
        return message

    def _dataset_id(self, reference: str) -> str:
        for dataset in self._store.datasets:
            if reference in (dataset.id, dataset.full_name):
                return dataset.id
        raise NotFound(f"dataset {reference!r} not found")

    def _bucket(self, name: str) -> str:
        buckets = self._organization.fleet.weka_buckets
        if buckets is not None and name not in buckets:
            raise NotFound(f"weka bucket {name!r} not found")
        return checked_name(name, "a weka bucket")

    def _system_details(self, spec: TaskSpec, budget_id: str) -> pb2.SystemDetails:
        details = pb2.SystemDetails(
            priority=self._priority(spec),
            propagate_failure=bool(spec.propagate_failure),
            propagate_preemption=bool(spec.propagate_preemption),
            auto_resume=spec.context.resumes,
        )
        if spec.timeout is not None:
            details.timeout.FromNanoseconds(spec.timeout)
        if (minimum := spec.context.minimum_runtime_ns) is not None:
            details.min_runtime.FromNanoseconds(minimum)
        if clusters := [self._allowed_cluster(name, spec, budget_id) for name in spec.clusters]:
            details.placement_constraints.add(type=_CLUSTER, values=clusters)
        if spec.hostnames:
            nodes = [self._organization.node(hostname).message.hostname for hostname in spec.hostnames]
            details.placement_constraints.add(type=_HOSTNAME, values=nodes)
        return details

    def _priority(self, spec: TaskSpec) -> pb2.JobPriority:
        priority: pb2.JobPriority = pb2.JobPriority.Value(f"JOB_PRIORITY_{(spec.context.priority or 'normal').upper()}")
        if priority > self._workspace.maximum_workload_priority:
            highest = pb2.JobPriority.Name(self._workspace.maximum_workload_priority).removeprefix("JOB_PRIORITY_")
            raise InvalidRequest(
                f"priority {spec.context.priority!r} is above the highest of workspace"
                f" {self._workspace.name!r}, {highest.lower()!r}"
            )
        return priority

    def _allowed_cluster(self, reference: str, spec: TaskSpec, budget_id: str) -> str:
        cluster = self._organization.cluster(reference)
        if cluster.budget_restrictions and budget_id not in cluster.budget_restrictions:
            raise InvalidRequest(f"the budget may not use cluster {reference!r}")
        longest = cluster.max_task_timeout.ToNanoseconds() if cluster.HasField("max_task_timeout") else None
        if longest is not None and (spec.timeout is None or spec.timeout > longest):
            raise InvalidRequest(f"cluster {reference!r} needs a timeout of {longest / 1e9:g} s at most")
        return cluster.id


def yaml_spec(store: Store, experiment_id: str) -> str:
    """The spec as it was sent."""
    text: str = yaml.safe_dump(store.specs.get(experiment_id)["spec"], sort_keys=False)
    return text


def parsed_spec(store: Store, experiment_id: str) -> ExperimentSpec:
    """The spec, read."""
    if experiment_id not in store.parsed_specs:
        store.parsed_specs[experiment_id] = read_spec(store.specs.get(experiment_id)["spec"])
    spec: ExperimentSpec = store.parsed_specs[experiment_id]
    return spec


def task_spec(store: Store, experiment: pb2.Experiment, task: pb2.Task) -> TaskSpec:
    """What the spec says of a task: replicas come in the order of the spec, all of them."""
    spec = parsed_spec(store, experiment.id)
    of_tasks = [described for described in spec.tasks for _ in range(described.replicas or 1)]
    position = next(position for position, other in enumerate(experiment.tasks) if other.id == task.id)
    return of_tasks[position]


def _resource_request(spec: TaskSpec) -> pb2.ResourceRequest:
    resources = spec.resources
    if resources is None:
        return pb2.ResourceRequest()
    return pb2.ResourceRequest(
        cpu_count=resources.cpu_count,
        gpu_count=resources.gpu_count,
        memory_bytes=None if resources.memory is None else size_bytes(resources.memory),
        shared_memory_bytes=None if resources.shared_memory is None else size_bytes(resources.shared_memory),
    )


def _join_group(group: pb2.ReplicaGroupDetails, spec: TaskSpec, group_id: str, rank: int) -> None:
    group.id = group_id
    group.size = spec.replicas or 1
    group.rank = rank
    if spec.leader_selection:
        group.is_leader_replica = rank == 0
    if spec.synchronized_start_timeout is not None:
        group.synchronized_start_timeout.FromNanoseconds(spec.synchronized_start_timeout)
