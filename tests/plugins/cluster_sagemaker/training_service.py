"""moto's SageMaker, with jobs that run: `training_service.py DIRECTORY` serves until it is killed.

moto keeps training jobs, and says of each at once that it is complete. Here a job's containers are processes of this
machine, each in a process namespace of its own, with a `/opt/ml` in the directory; what they write goes to moto's
CloudWatch line by line, and their end becomes the job's, in SageMaker's words. Images are not looked at.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flask import request as asked  # pants: no-infer-dep  # moto's server is made of it
from moto.logs.models import logs_backends
from moto.sagemaker.exceptions import AWSValidationException, ResourceInUseException
from moto.sagemaker.models import FakeTrainingJob, SageMakerModelBackend
from moto.sagemaker.responses import SageMakerResponse
from servers.object_store import serve

GROUP = "/aws/sagemaker/TrainingJobs"
GRACE_SECONDS = 0.5
"""Between SIGTERM and SIGKILL; on AWS it is 120."""

VARIABLES = {"PATH": os.environ["PATH"], "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "role",
             "AWS_SECRET_ACCESS_KEY": "role"}  # fmt: skip
"""What a container has. On AWS the role's credentials are found otherwise."""


class Containers:
    """A job's containers, from the start to the end of all."""

    def __init__(self, job: FakeTrainingJob, directory: Path) -> None:
        self._job, self._directory = job, directory / job.training_job_name
        self._ended_as = ""
        hosts = [f"127.0.0.{number + 1}" for number in range(job.resource_config["InstanceCount"])]
        self.processes = [self._start(hosts, number) for number in range(len(hosts))]
        self._readers = [threading.Thread(target=self._read_log, args=(number,)) for number in range(len(hosts))]
        threading.Thread(target=self._see_to_the_end, daemon=True).start()

    def _start(self, hosts: list[str], number: int) -> subprocess.Popen[bytes]:
        root, specification = self._directory / str(number), self._job.algorithm_specification
        config = root / "input" / "config"
        config.mkdir(parents=True)
        (config / "hyperparameters.json").write_text(json.dumps(self._job.hyper_parameters))
        (config / "resourceconfig.json").write_text(json.dumps({"current_host": hosts[number], "hosts": hosts}))
        command = [*specification["ContainerEntrypoint"], *specification["ContainerArguments"]]
        own = {"TRAINING_JOB_NAME": self._job.training_job_name, "AWS_ENDPOINT_URL_SECRETS_MANAGER": asked.host_url}
        return subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child=KILL",
             *(str(root) if one == "/opt/ml" else one for one in command)],
            env={**VARIABLES, **own}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def _read_log(self, number: int) -> None:
        backend, stream = (
            logs_backends["123456789012"]["us-east-1"],
            f"{self._job.training_job_name}/algo-{number + 1}-1",
        )
        backend.groups[GROUP].create_log_stream(stream)
        output = self.processes[number].stdout
        assert output is not None
        for line in output:
            message = line.removesuffix(b"\n").decode(errors="replace")
            if message:  # CloudWatch takes no empty event
                backend.put_log_events(GROUP, stream, [{"timestamp": int(time.time() * 1000), "message": message}])

    def end(self, secondary: str) -> None:
        """SIGTERM to each start program, and the end of all soon after it."""
        self._ended_as = self._ended_as or secondary
        for process in self.processes:
            for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                os.kill(int(child), 15)
        threading.Timer(GRACE_SECONDS, self._kill).start()

    def _kill(self) -> None:
        for process in self.processes:
            process.kill()

    def _see_to_the_end(self) -> None:
        for reader in self._readers:
            reader.start()
        limit = threading.Timer(self._job.stopping_condition["MaxRuntimeInSeconds"], self.end, ["MaxRuntimeExceeded"])
        limit.start()
        while None in (codes := [process.poll() for process in self.processes]) and not any(codes):
            time.sleep(0.01)
        failed = next((number for number, code in enumerate(codes) if code), None)
        if failed is not None and not self._ended_as:
            self._kill()  # a host that fails ends the others
        for process, reader in zip(self.processes, self._readers, strict=True):
            process.wait()
            reader.join()
        limit.cancel()
        self._tell(failed, [process.returncode for process in self.processes])

    def _tell(self, failed: int | None, codes: list[int]) -> None:
        job: Any = self._job
        job.training_end_time = datetime.now(UTC)
        if self._ended_as:
            job.secondary_status, job.training_job_status = self._ended_as, "Stopped"
        elif failed is None:
            job.secondary_status = job.training_job_status = "Completed"
        else:
            said = self._directory / str(failed) / "output" / "failure"
            words = said.read_text() if said.is_file() else ""
            job.failure_reason = f"AlgorithmError: {words}, exit code: {codes[failed]}"
            job.secondary_status = job.training_job_status = "Failed"


def make_jobs_run(directory: Path) -> None:
    """Change moto's backend so that a job that is created runs."""
    running: dict[str, Containers] = {}
    lock = threading.Lock()
    create, describe, listed = (getattr(SageMakerModelBackend, f"{verb}_training_job{end}")
                                for verb, end in (("create", ""), ("describe", ""), ("list", "s")))  # fmt: skip

    def create_training_job(backend: Any, **request: Any) -> Any:
        with lock:
            name = request["training_job_name"]
            if name in backend.training_jobs:
                raise ResourceInUseException(f"Training job names must be unique within an AWS account: {name}")
            logs = logs_backends["123456789012"]["us-east-1"]
            if GROUP not in logs.groups:
                logs.create_log_group(GROUP, {})
            job: Any = create(backend, **request)
            job.training_job_status, job.secondary_status, job.training_end_time = "InProgress", "Training", None
            running[name] = Containers(job, directory)
            return job

    def stop_training_job(response: Any) -> str:
        name = response._get_param("TrainingJobName")
        job = describe(response.sagemaker_backend, name)
        if job["TrainingJobStatus"] != "InProgress":
            state = job["TrainingJobStatus"]
            raise AWSValidationException(f"The request was rejected because the training job is in status {state}.")
        kept: Any = response.sagemaker_backend.training_jobs[name]
        kept.training_job_status = kept.secondary_status = "Stopping"
        running[name].end("Stopped")
        return "{}"

    def list_training_jobs(backend: Any, **request: Any) -> dict[str, Any]:
        page: dict[str, Any] = listed(backend, **request)
        for line in page["TrainingJobSummaries"]:  # AWS says it, moto does not
            line["SecondaryStatus"] = backend.training_jobs[line["TrainingJobName"]].secondary_status
        return page

    backend: Any = SageMakerModelBackend
    backend.create_training_job, backend.list_training_jobs = create_training_job, list_training_jobs
    responses: Any = SageMakerResponse
    responses.stop_training_job = stop_training_job


if __name__ == "__main__":
    make_jobs_run(Path(sys.argv[1]))
    serve()
