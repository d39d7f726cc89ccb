"""The entry of a node: checks once, then works here or starts the node's processes and passes their end on."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.contracts.errors import CheckpointCorrupted, RunStopped, TrainingDiverged, TunewrightError
from tunewright.trainer.checkpoints.copies import fetch_checkpoints
from tunewright.trainer.checkpoints.finding import find_checkpoint, whole_checkpoints
from tunewright.trainer.interruption import (
    NODE_DIRECTORY_VARIABLE,
    REQUEUE_EXIT_CODE,
    Interruption,
    NodeDirectory,
    end_process,
    grace_seconds,
    hear_signals,
    interruptible,
    signal_name,
)
from tunewright.trainer.job import TrainingJob, open_job, verify_dataset
from tunewright.trainer.scoring.harness import refuse_missing_harness
from tunewright.trainer.scoring.rows import RowStore
from tunewright.trainer.summary import note_failure

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

_SECONDS_FOR_THE_MAIN_PROCESS = 5.0
_SECONDS_AFTER_THE_DEADLINE = 2.0
_HOPELESS_EXIT_CODES = (64, 65, 66, 77, 78)
"""What is wrong stays wrong: processes are not started again for it."""

_SECONDS_FROM_CAUSE_TO_ECHO = 10
"""Well under the 30 s after which torch's agent kills those that SIGTERM did not end."""

_SIGNALS_OF_AN_ECHO = (signal.SIGTERM, signal.SIGABRT)
"""What a process may die of because another has: its agent ends it, or its communication library gives up."""

_LOCAL_ADDRESS = "127.0.0.1"


def run_node(path: Path) -> int:
    """Run the job at `path` on this node. Gives 0, or the first failing process's exit code, 128+n for a signal.

    Where a signal has asked for the end, 75 if there is a checkpoint to go on from.
    """
    node = NodeDirectory.of_this_process()
    if node is not None and node.interruption() is not None:
        return 0  # started again while the node ends
    if node is not None and (said := node.exit_code()) is not None:
        return said  # started again after an error that would only come again
    job = open_job(path)
    if "RANK" in os.environ:  # a process that a node has started
        return _work_here(job)
    kind = job.experiment.job
    if kind == "export":  # reads no dataset, and is the work of one process
        return _work_here(job)
    try:
        refuse_missing_harness(job.experiment)
        verify_dataset(job)
        is_first_node = os.environ.get("TUNEWRIGHT_NODE_RANK", "0") == "0"
        if kind == "train" and is_first_node:  # the run's directory is the same on all nodes
            prepare_checkpoint(job)
    except TunewrightError as error:
        note_failure(job, error.message)
        raise
    return _work_here(job) if job.num_processes == 1 else _start_processes(job, path)


def prepare_checkpoint(job: TrainingJob) -> None:
    """Have the checkpoint to go on from here, verified: a copy is fetched where the run has lost its own.

    Raises CheckpointCorrupted where there are some but none is as it was written, Unavailable where copies cannot be
    asked for: a run never starts again from nothing without a word.
    """
    found, problem, url = None, None, job.experiment.checkpoint.copy_to
    try:
        found = find_checkpoint(job, verify=True)
    except CheckpointCorrupted as error:
        problem = error
    if found is None and url is not None and fetch_checkpoints(url, job.job.run, job.run_dir.checkpoints):
        find_checkpoint(job)  # is it this experiment's?
    elif problem is not None:
        raise problem


def _work_here(job: TrainingJob) -> int:
    """Do in this process what the job is."""
    try:
        with interruptible(lambda number: _leave(job, number)) as interruption:
            _do(job, interruption)
    except TunewrightError as error:
        node = NodeDirectory.of_this_process()
        if node is None:
            raise
        return _end_in_node(node, error)
    return 0


def _do(job: TrainingJob, interruption: Interruption) -> None:
    kind = job.experiment.job
    if kind == "evaluate":
        from tunewright.trainer.scoring.running import run_scoring

        run_scoring(job)
    elif kind == "export":
        from tunewright.trainer.exporting import run_export

        run_export(job)
    else:
        from tunewright.trainer.training import run_training

        run_training(job, interruption)


def _end_in_node(node: NodeDirectory, error: TunewrightError) -> int:
    """The end of a process that a node has started. Gives its exit code."""
    is_main = os.environ["RANK"] == "0"
    if isinstance(error, RunStopped):  # all processes agree: to torch's agent it must not look like a failure
        if is_main:
            print(error.message, file=sys.stderr)
        node.end_with(error.exit_code)
        return 0
    if is_main:
        if isinstance(error, TrainingDiverged) or error.exit_code in _HOPELESS_EXIT_CODES:
            node.end_with(error.exit_code)
        raise error
    # Mostly every process meets the same error: rank 0, which tells the user, must not be stopped before it has.
    time.sleep(_SECONDS_FOR_THE_MAIN_PROCESS)
    print(f"process {os.environ['RANK']}: {error.message}", file=sys.stderr)
    return error.exit_code


def _leave(job: TrainingJob, number: int) -> None:
    """End this process because of signal `number`, its time being over: the newest whole checkpoint is the state."""
    code, node = interrupted_exit_code(job, number), NodeDirectory.of_this_process()
    words = f"stopped by {signal_name(number)}{' without another checkpoint' if job.experiment.job == 'train' else ''}"
    try:
        if os.environ.get("RANK", "0") == "0":
            note_failure(job, words, keep=True)
            os.write(sys.stderr.fileno(), f"{words}\n".encode())
        if node is not None:
            node.end_with(code)
    finally:
        end_process(code if node is None else 0)


def interrupted_exit_code(job: TrainingJob, number: int) -> int:
    """What an interrupted run ends with: 75 where there is a checkpoint, or rows, to go on from, else 128+n."""
    can_go_on = bool(whole_checkpoints(job.run_dir.checkpoints)) or RowStore(job.run_dir).has_rows()
    return REQUEUE_EXIT_CODE if can_go_on else 128 + number


def _start_processes(job: TrainingJob, path: Path) -> int:
    from torch.distributed.launcher.api import elastic_launch

    _prepare_children(job)
    with tempfile.TemporaryDirectory(prefix="tunewright-node-") as directory:
        node = NodeDirectory(Path(directory))
        os.environ[NODE_DIRECTORY_VARIABLE] = directory
        with hear_signals(lambda number: _interrupt(job, node, number)):
            launch = elastic_launch(_launch_config(job), sys.executable)
            code = _see_to_the_end(job, node, launch, path)
        interruption = node.interruption()
        if code and interruption:
            return interrupted_exit_code(job, interruption[0])
        return code or node.exit_code() or 0


def _see_to_the_end(job: TrainingJob, node: NodeDirectory, launch: Any, path: Path) -> int:
    """Start the processes and wait for all of them. Gives 0, or what the first to fail ended with."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        launch("-m", "tunewright.trainer", job.experiment.job, str(path.absolute()))
    except ChildFailedError as error:
        rank, failure = cause_of_the_end(error.failures)
        code = shell_exit_code(failure.exitcode)
        # What rank 0 says when another process is gone is that it cannot reach it: the cause is the first to end.
        is_told = rank == 0 or node.exit_code() is not None or node.interruption() is not None
        note_failure(job, f"process {rank} ended with exit code {code}", keep=is_told)
        return code
    except SignalException as error:
        note_failure(job, f"stopped by {error.sigval.name}", keep=True)
        return 128 + int(error.sigval)
    return 0


def cause_of_the_end(failures: Mapping[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """The rank that brought the others down, and its failure. `failures` has all that failed, in the order of notice.

    torch's own answer is the first noticed, by the second. Of a killed process the others learn at once, by a lost
    connection, and may have ended with an error by the time that torch looks: a signal is then the cause, and an exit
    code what followed from it.
    """
    first = min(failures, key=lambda rank: failures[rank].timestamp)
    latest = failures[first].timestamp + _SECONDS_FROM_CAUSE_TO_ECHO
    for rank, failure in failures.items():
        if failure.timestamp <= latest and failure.exitcode < 0 and -failure.exitcode not in _SIGNALS_OF_AN_ECHO:
            return rank, failure
    return first, failures[first]


def _interrupt(job: TrainingJob, node: NodeDirectory, number: int) -> None:
    """Pass a signal on to the node's processes. They end by the deadline; the node soon after it, whatever they do."""
    if node.interruption() is not None:
        return
    seconds = grace_seconds(os.environ)
    node.interrupt(number, time.monotonic() + seconds)
    timer = threading.Timer(seconds + _SECONDS_AFTER_THE_DEADLINE, _leave_node, [job, number])
    timer.daemon = True
    timer.start()


def _leave_node(job: TrainingJob, number: int) -> None:
    try:
        note_failure(job, f"stopped by {signal_name(number)} without another checkpoint", keep=True)
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
    finally:
        end_process(interrupted_exit_code(job, number))


def shell_exit_code(code: int) -> int:
    """What a shell says of a process: its own exit code, or 128+n where signal n (given as -n) killed it."""
    return 128 - code if code < 0 else code


def _prepare_children(job: TrainingJob) -> None:
    """The children must find what we found, and share this node's cores instead of fighting for them."""
    os.environ["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if entry)
    cores = len(os.sched_getaffinity(0)) // job.job.resources.processes_per_node
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores)))


def _launch_config(job: TrainingJob) -> Any:
    """As torchrun would be told. SIGTERM is ours: torch's agent would only end the processes."""
    from torch.distributed.launcher.api import LaunchConfig

    resources = job.job.resources
    shared: dict[str, Any] = {
        "min_nodes": resources.nodes,
        "max_nodes": resources.nodes,
        "nproc_per_node": resources.processes_per_node,
        "run_id": job.job.run,
        "max_restarts": job.experiment.training.max_worker_restarts,
        "signals_to_handle": "SIGINT,SIGHUP,SIGQUIT",
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
