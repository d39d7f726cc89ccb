"""The entry of a node: checks once, then trains here or starts the node's processes and passes their end on."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from tunewright.contracts.errors import TunewrightError
from tunewright.trainer.checkpoints.finding import find_checkpoint
from tunewright.trainer.job import TrainingJob, open_job, verify_dataset
from tunewright.trainer.summary import note_failure

_SECONDS_FOR_THE_MAIN_PROCESS = 5.0
_LOCAL_ADDRESS = "127.0.0.1"


def run_node(path: Path) -> int:
    """Run the job at `path` on this node. Gives 0, or the first failing process's exit code, 128+n for a signal."""
    job = open_job(path)
    if "RANK" in os.environ:  # a process that a node has started
        return _train_here(job)
    try:
        verify_dataset(job)
        find_checkpoint(job, verify=True)
    except TunewrightError as error:
        note_failure(job, error.message)
        raise
    return _train_here(job) if job.num_processes == 1 else _start_processes(job, path)


def _train_here(job: TrainingJob) -> int:
    """Train in this process."""
    from tunewright.trainer.training import run_training

    try:
        run_training(job)
    except TunewrightError as error:
        if os.environ.get("RANK", "0") == "0":
            raise
        # Mostly every process meets the same error: rank 0, which tells the user, must not be stopped before it has.
        time.sleep(_SECONDS_FOR_THE_MAIN_PROCESS)
        print(f"process {os.environ['RANK']}: {error.message}", file=sys.stderr)
        return error.exit_code
    return 0


def _start_processes(job: TrainingJob, path: Path) -> int:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    _prepare_children(job)
    command = ["-m", "tunewright.trainer", "train", str(path.absolute())]
    try:
        elastic_launch(_launch_config(job), sys.executable)(*command)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = shell_exit_code(failure.exitcode)
        # What rank 0 says when another process is gone is that it cannot reach it: the cause is the first to end.
        note_failure(job, f"process {rank} ended with exit code {code}", keep=rank == 0)
        return code
    except SignalException as error:
        note_failure(job, f"stopped by {error.sigval.name}", keep=True)
        return 128 + error.sigval
    return 0


def shell_exit_code(code: int) -> int:
    """What a shell says of a process: its own exit code, or 128+n where signal n (given as -n) killed it."""
    return 128 - code if code < 0 else code


def _prepare_children(job: TrainingJob) -> None:
    """The children must find what we found, and share this node's cores instead of fighting for them."""
    os.environ["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if entry)
    cores = len(os.sched_getaffinity(0)) // job.job.resources.processes_per_node
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores)))


def _launch_config(job: TrainingJob) -> Any:
    """As torchrun would be told. Restarts are the cluster's (`max_retries`): it starts the whole job again."""
    from torch.distributed.launcher.api import LaunchConfig

    resources = job.job.resources
    shared: dict[str, Any] = {
        "min_nodes": resources.nodes,
        "max_nodes": resources.nodes,
        "nproc_per_node": resources.processes_per_node,
        "run_id": job.job.run,
        "max_restarts": 0,
        "monitor_interval": 0.1,
    }
    if resources.nodes == 1:
        return LaunchConfig(
            **shared, rdzv_backend="c10d", rdzv_endpoint=f"{_LOCAL_ADDRESS}:0", local_addr=_LOCAL_ADDRESS
        )
    node_rank, endpoint = rendezvous(os.environ)
    return LaunchConfig(**shared, rdzv_backend="static", rdzv_endpoint=endpoint, rdzv_configs={"rank": node_rank})


def rendezvous(environment: Any) -> tuple[int, str]:
    """This node's rank and `address:port` of the first node, from the variables the cluster sets."""
    try:
        address, port = environment["TUNEWRIGHT_MASTER_ADDRESS"], int(environment["TUNEWRIGHT_MASTER_PORT"])
        return int(environment["TUNEWRIGHT_NODE_RANK"]), f"{address}:{port}"
    except KeyError as error:
        raise TunewrightError(f"a job on several nodes needs {error.args[0]}, which the cluster has not set") from None
    except ValueError as error:
        raise TunewrightError(f"TUNEWRIGHT_NODE_RANK and TUNEWRIGHT_MASTER_PORT must be numbers: {error}") from None
