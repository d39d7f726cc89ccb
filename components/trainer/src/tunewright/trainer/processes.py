"""The processes of a job: how a node starts its own, and how they find one another."""

from __future__ import annotations

import os
import signal
import socket
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from tunewright.contracts.jobs import JobSpec

_RENDEZVOUS_TIMEOUT = timedelta(minutes=15)


@dataclass(frozen=True)
class ProcessPlace:
    """Which of the job's processes this one is."""

    rank: int = 0
    local_rank: int = 0
    num_processes: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes what there is one of."""
        return self.rank == 0


def must_start_processes(job: JobSpec) -> bool:
    """Whether this is a node's entry, and several processes are wanted."""
    return job.resources.nodes * job.resources.processes_per_node > 1 and "RANK" not in os.environ


def start_processes(job: JobSpec, job_file: Path) -> int:
    """Run the node's processes with torchrun's agent. Gives the exit code of the first that failed, 128+n for a signal.

    The rendezvous is what the cluster gave (see JobSpec); one node finds a port of its own.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    nodes = job.resources.nodes
    rank = int(os.environ.get("TUNEWRIGHT_NODE_RANK", "0"))
    address = os.environ.get("TUNEWRIGHT_MASTER_ADDRESS", "127.0.0.1")
    port = int(os.environ.get("TUNEWRIGHT_MASTER_PORT") or _free_port())
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=job.resources.processes_per_node,
        run_id=job.run,
        role="trainer",
        rdzv_backend="static",
        rdzv_endpoint=f"{address}:{port}",
        rdzv_configs={"rank": rank, "timeout": int(_RENDEZVOUS_TIMEOUT.total_seconds())},
        max_restarts=0,
        monitor_interval=0.2,
        local_addr=address if nodes == 1 else None,
    )
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // job.resources.processes_per_node)))
    try:
        elastic_launch(config, sys.executable)("-m", "tunewright.trainer", "train", str(job_file))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        print(f"process {failure.local_rank} of this node ended with {failure.exitcode}", file=sys.stderr)
        return 128 - failure.exitcode if failure.exitcode < 0 else failure.exitcode
    return 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def join_processes() -> ProcessPlace:
    """Join the other processes of the job, if there are any. Called once, before Accelerate is."""
    if "RANK" not in os.environ:
        return ProcessPlace()
    import torch
    import torch.distributed as distributed

    place = ProcessPlace(int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"]))
    # The agent's store outlives a restart; without a prefix a restarted rank may read a dead one's address (torch 2.13).
    store = distributed.PrefixStore(
        f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}",
        distributed.TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), place.num_processes, is_master=False,
            timeout=_RENDEZVOUS_TIMEOUT,
        ),
    )  # fmt: skip
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(place.local_rank)
    distributed.init_process_group(backend, store=store, rank=place.rank, world_size=place.num_processes)
    return place


def leave_processes() -> None:
    """Tell the others that this process is done."""
    import torch.distributed as distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


def end_like(exit_code: int) -> int:
    """The exit code as it is, or the signal it stands for sent to ourselves: a killed node looks killed from outside."""
    if exit_code > 128:
        number = exit_code - 128
        signal.signal(number, signal.SIG_DFL) if number not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), number)
    return exit_code
