"""The beginning and the end of a job as its record tells them, whatever the job does."""

from __future__ import annotations

import os

from tunewright.contracts.provenance import ProvenanceRecord, TrainingSummary, compose_record, write_record
from tunewright.contracts.status import CauseKind, JobState, JobStatus
from tunewright.contracts.timestamps import utc_now
from tunewright.trainer.job import TrainingJob
from tunewright.trainer.summary import (
    describe_hardware,
    determinism_record,
    digest_of_loaded_model,
    installed_packages,
    python_version,
    write_summary,
)


def begin_summary(job: TrainingJob, num_processes: int, on_gpu: bool) -> TrainingSummary:
    """What is seen at the start of a job that trains nothing. Written, and the record of an earlier attempt removed."""
    summary = TrainingSummary(
        started_at=utc_now(),
        model_sha256=digest_of_loaded_model(job),
        seeds={"experiment": job.experiment.seed},
        determinism=determinism_record(on_gpu, num_processes),
        hardware=describe_hardware(),
        packages=installed_packages(),
        python=python_version(),
        num_processes=num_processes,
        plugins=job.host.versions,
    )
    job.run_dir.provenance.unlink(missing_ok=True)
    write_summary(job, summary)
    return summary


def record_success(job: TrainingJob, started_at: str) -> ProvenanceRecord:
    """Write the record of a job that has done what it was to do: the last file of the run."""
    status = JobStatus(
        state=JobState.SUCCEEDED,
        cause=CauseKind.EXIT,
        exit_code=0,
        attempt=int(os.environ.get("TUNEWRIGHT_ATTEMPT", "0")),
        started_at=started_at,
        ended_at=utc_now(),
    )
    record = compose_record(job.run_dir, status, utc_now())
    write_record(job.run_dir, record)
    return record
