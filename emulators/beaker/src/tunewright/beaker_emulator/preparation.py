"""What a job needs on its node: its variables, its secrets, and what is mounted where."""

from __future__ import annotations

import shutil
from pathlib import Path

from beaker import beaker_pb2 as pb2

from tunewright.beaker_emulator.identifiers import new_id
from tunewright.beaker_emulator.launches import Launch, Mounted
from tunewright.beaker_emulator.organization import Organization
from tunewright.beaker_emulator.store import Store, write_file


class Preparation:
    """Turns a job that has a node into what a runner starts."""

    def __init__(self, store: Store, organization: Organization) -> None:
        self._store = store
        self._organization = organization

    def prepare(self, job: pb2.Job, leader: pb2.Job | None) -> Launch:
        """All that a runner is told. OSError where something that the job names is not there any more."""
        variables = self._assigned_variables(job, leader)
        job.assignment_details.assigned_environment_variables.extend(
            pb2.EnvironmentVariable(name=name, literal=value) for name, value in variables.items()
        )
        container = job.container_spec
        request = container.resource_request
        return Launch(
            job_id=job.id,
            image=self._image(container),
            command=tuple(container.command),
            arguments=tuple(container.arguments),
            environment={**self._spec_variables(job), **variables},
            mounts=self._mounts(job),
            memory_bytes=request.memory_bytes if request.HasField("memory_bytes") else None,
            shared_memory_bytes=request.shared_memory_bytes if request.HasField("shared_memory_bytes") else None,
            cpu_count=request.cpu_count if request.HasField("cpu_count") else None,
            host_networking=container.host_networking,
        )

    def tidy(self, job: pb2.Job) -> None:
        """Take away what was written for a job that has ended."""
        shutil.rmtree(self._private(job), ignore_errors=True)

    def _image(self, container: pb2.ContainerSpec) -> str:
        if container.HasField("docker_reference"):
            return container.docker_reference
        if container.image_id not in self._store.images:
            raise FileNotFoundError(f"image {container.image_id} was deleted")
        return self._store.images.get(container.image_id).docker_id

    def _spec_variables(self, job: pb2.Job) -> dict[str, str]:
        variables = job.container_spec.environment_variables
        return {
            variable.name: self._secret(job, variable.secret_reference)
            if variable.HasField("secret_reference")
            else variable.literal
            for variable in variables
        }

    def _secret(self, job: pb2.Job, name: str) -> str:
        secrets = self._store.secrets.get(job.workspace_id, {})
        if name not in secrets:
            raise FileNotFoundError(f"secret {name} was deleted")
        value: str = secrets[name]["value"]
        return value

    def _assigned_variables(self, job: pb2.Job, leader: pb2.Job | None) -> dict[str, str]:
        details = job.assignment_details
        node = self._organization.nodes[details.node_id].message
        variables = {
            "BEAKER_ASSIGNED_CPU_COUNT": f"{details.resource_assignment.cpu_count:g}",
            "BEAKER_ASSIGNED_GPU_COUNT": str(len(details.resource_assignment.gpus)),
            "BEAKER_EXPERIMENT_ID": job.workload_id,
            "BEAKER_JOB_ID": job.id,
            "BEAKER_JOB_KIND": "batch",
            "BEAKER_NODE_HOSTNAME": node.hostname,
            "BEAKER_NODE_ID": node.id,
            "BEAKER_RESULT_DATASET_ID": details.result_dataset_id,
            "BEAKER_TASK_ID": job.task_id,
            "BEAKER_USER_ID": job.author_id,
            "BEAKER_WORKLOAD_ID": job.workload_id,
            "BEAKER_WORKSPACE_ID": job.workspace_id,
        }
        group = job.system_details.replica_group_details
        if group.id:
            variables |= {"BEAKER_REPLICA_COUNT": str(group.size), "BEAKER_REPLICA_RANK": str(group.rank)}
        if leader is not None:
            at = self._organization.nodes[leader.assignment_details.node_id].message
            variables |= {
                "BEAKER_LEADER_REPLICA_HOSTNAME": at.hostname,
                "BEAKER_LEADER_REPLICA_JOB_ID": leader.id,
                "BEAKER_LEADER_REPLICA_NODE_ID": at.id,
            }
        return variables

    def _mounts(self, job: pb2.Job) -> tuple[Mounted, ...]:
        """Outer paths first, so that one may lie within another."""
        mounts = [self._mounted(job, mount) for mount in job.container_spec.mounts]
        if job.container_spec.HasField("result_path"):
            results = self._store.dataset_files(job.assignment_details.result_dataset_id)
            mounts.append(Mounted(results, job.container_spec.result_path, read_only=False))
        return tuple(sorted(mounts, key=lambda mount: mount.target))

    def _mounted(self, job: pb2.Job, mount: pb2.Mount) -> Mounted:
        read_only = mount.mode == pb2.MountMode.MOUNT_MODE_READ_ONLY
        source = self._source(job, mount)
        if mount.HasField("sub_path"):
            source = source / mount.sub_path
            if mount.HasField("weka"):
                source.mkdir(parents=True, exist_ok=True)
        if not source.exists():
            raise FileNotFoundError(f"what is mounted at {mount.mount_path} does not exist: {source}")
        return Mounted(source, mount.mount_path, read_only)

    def _source(self, job: pb2.Job, mount: pb2.Mount) -> Path:
        if mount.HasField("dataset_id"):
            return self._store.dataset_files(mount.dataset_id)
        if mount.HasField("host_path"):
            return Path(mount.host_path)
        if mount.HasField("weka"):
            bucket = self._store.directory / "weka" / mount.weka
            bucket.mkdir(parents=True, exist_ok=True)
            return bucket
        secret_file = self._private(job) / new_id()
        secret_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_file(secret_file, self._secret(job, mount.secret_reference).encode())
        return secret_file

    def _private(self, job: pb2.Job) -> Path:
        return self._store.directory / "secret-files" / job.id
