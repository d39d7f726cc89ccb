"""What the sbatch script becomes, on the job's first node: it starts the command on all nodes, and tells how it ended.

It keeps `state.json` in the submission's directory, starts a failed command again, asks Slurm to requeue the job where
that was asked for, and exits with the command's own exit code. Its last word is written before it ends.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

REQUEUE_EXIT_CODE = 75
USELESS_TO_RETRY = (64, 65, 66, 77, 78)
"""What the trainer exits with where the next try would end the same way."""

LONGEST_PAUSE_SECONDS = 30.0
REQUEUE_PATIENCE_SECONDS = 60.0
ASK_SECONDS = 30
BOOT = "import json,sys; J=json.load(sys.stdin.buffer); exec(compile(J['program'],'node_program.py','exec'),dict(JOB=J,__name__='__main__'))"  # noqa: E501 - fmt: skip


class Job:
    """One job of a plan, on the nodes that Slurm gave it."""

    def __init__(self, plan: dict[str, Any], name: str) -> None:
        self.plan = plan
        self.own = plan["jobs"][int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))]
        self.directory = os.path.join(self.own["run_dir"], "slurm", name)
        self.slurm_id = os.environ["SLURM_JOB_ID"]
        self.nodes = lines_from(["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]])
        self.before = read_json(os.path.join(self.directory, "state.json"))
        self.attempt = self.before["attempt"] + 1 if self.before else 0
        self.started_at = self.before.get("started_at") or now()
        self.is_warned = False

    def tell(self, state: str, **more: Any) -> None:
        """Write `state.json`."""
        document = {"state": state, "attempt": self.attempt, "job": self.slurm_id, "nodes": self.nodes}
        document.update(started_at=self.started_at, **{key: value for key, value in more.items() if value is not None})
        write_json(os.path.join(self.directory, "state.json"), document)

    def end(self, state: str, code: int, **more: Any) -> int:
        """Tell the last word, forget the secrets, and give the exit code."""
        self.tell(state, ended_at=now(), **more)
        forget(os.path.join(self.directory, "secrets.json"))
        return code

    def may_start_again(self) -> bool:
        """Whether there are attempts left."""
        return self.attempt < int(self.plan["max_retries"])

    def may_be_requeued(self) -> bool:
        """Whether Slurm may start it again, which does not count where it always may."""
        return bool(self.plan["is_requeued_always"]) or self.may_start_again()


def run_job(plan: dict[str, Any], name: str) -> int:
    """Run one job of `plan` to its end, or to its requeue."""
    job = Job(plan, name)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        # Slurm tells the batch script too. If it ended now, the command would be ended in the middle of its checkpoint.
        signal.signal(number, lambda *_: setattr(job, "is_warned", True))
    os.makedirs(os.path.join(job.own["run_dir"], "logs"), exist_ok=True)
    forget(os.path.join(job.directory, "verdict.json"))
    if job.before.get("ended_at"):  # requeued by hand after its end
        job.started_at = now()
    elif job.attempt > plan["max_retries"] and not plan["is_requeued_always"]:
        return end_without_attempts(job)
    secrets = secrets_of(job)
    while True:
        job.tell("RUNNING")
        code = start_everywhere(job, secrets)
        record = first_failure(job)
        if record is None and not silent_nodes(job):
            # Whatever srun ends with: it fails also where a child was killed for memory, and the command went on.
            return job.end("SUCCEEDED", 0, exit_code=0)
        more = cause_of(job, record, code)
        if is_taken(job):
            job.tell("TAKEN", **more)
            return REQUEUE_EXIT_CODE
        if is_to_be_requeued(job, record, more):
            requeue(job, more)
        elif is_to_be_retried(job, more):
            job.tell("REQUEUED", **more)
            time.sleep(min(LONGEST_PAUSE_SECONDS, 0.2 * 2**job.attempt))
            job.attempt += 1
            continue
        signal_number = more.get("signal")
        return job.end("FAILED", 128 + signal_number if signal_number else more.get("exit_code") or 1, **more)


def end_without_attempts(job: Job) -> int:
    """Slurm started it once more than it may be: the last attempt's end was the job's."""
    job.attempt -= 1
    nodes = ", ".join(job.before.get("nodes", []))
    is_told = job.before.get("state") == "TAKEN" or was_warned(job)
    cause = "preempted" if is_told else "node_lost"
    what = "Slurm took it off its nodes" if is_told else "a node was lost"
    message = f"{what} ({nodes}), and there are no attempts left"
    return job.end("FAILED", REQUEUE_EXIT_CODE, cause=cause, message=message)


def was_warned(job: Job) -> bool:
    """Whether a node of the attempt before was sent a signal."""
    return any(record.get("warned") for record in records_of(job, job.attempt))


def secrets_of(job: Job) -> dict[str, str]:
    """Their values, from the file that the submission left. It goes as soon as no later start can need it."""
    if not job.plan["secrets"]:
        return {}
    path = os.path.join(job.directory, "secrets.json")
    secrets = read_json(path)
    missing = [name for name in job.plan["secrets"] if name not in secrets]
    if missing:
        job.end("FAILED", 1, message="its secrets are gone: {}".format(", ".join(missing)))
        sys.exit(1)
    if not job.plan["is_requeued_always"] and job.plan["max_retries"] == 0:
        forget(path)
    return secrets


def start_everywhere(job: Job, secrets: dict[str, str]) -> int:
    """One task a node, by srun, until they have all ended. Gives srun's exit code."""
    for path in glob.glob(os.path.join(glob.escape(job.directory), "node-*.json")):
        forget(path)
    task = {
        "program": job.plan["node_program"],
        "attempt": job.attempt,
        "command": job.own["command"],
        "container": job.plan["container"],
        "directory": job.directory,
        "run_dir": job.own["run_dir"],
        "secrets": secrets,
        "variables": dict(job.plan["variables"], **job.own["variables"]),
        "num_nodes": job.plan["num_nodes"],
        "master_address": address_of(job.nodes[0]),
        "master_port": free_port(),
    }
    number = str(job.plan["num_nodes"])
    command = ["srun", "--export=ALL", "--nodes=" + number, "--ntasks=" + number, "--ntasks-per-node=1"]
    command += ["--kill-on-bad-exit=1", "--mpi=none", "--cpu-bind=none", "--unbuffered", *job.plan["srun"]]
    command += [job.plan["python"], "-I", "-S", "-X", "utf8", "-c", BOOT]
    environment = {name: value for name, value in os.environ.items() if name != "SLURM_EXPORT_ENV"}
    # In a session of its own: Slurm's signals to the batch script would make srun end the command.
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, start_new_session=True)
    process.communicate(json.dumps(task).encode())
    return process.returncode


def first_failure(job: Job) -> dict[str, Any] | None:
    """What the node that failed first has said, if one has: the others were ended because of it."""
    failed = [record for record in records_of(job, job.attempt) if record["exit_code"] != 0]
    return min(failed, key=lambda record: (was_ended_with_others(record), record["ended_at"])) if failed else None


def was_ended_with_others(record: dict[str, Any]) -> bool:
    """Whether it looks like a node that srun has ended because another one failed."""
    return signal.SIGTERM in record["warned"] and (record["signal"] or record["exit_code"] - 128) in (9, 15)


def records_of(job: Job, attempt: int) -> list[dict[str, Any]]:
    """What nodes have said about their part of an attempt."""
    paths = glob.glob(os.path.join(glob.escape(job.directory), "node-*.json"))
    return [record for record in map(read_json, paths) if record.get("attempt") == attempt]


def silent_nodes(job: Job) -> list[str]:
    """The nodes that said nothing about how the command ended there."""
    told = {record["rank"] for record in records_of(job, job.attempt)}
    return [node for rank, node in enumerate(job.nodes) if rank not in told]


def cause_of(job: Job, record: dict[str, Any] | None, code: int) -> dict[str, Any]:
    """Why an attempt failed, in the words of `state.json`."""
    silent = silent_nodes(job)
    if record is None or (silent and was_ended_with_others(record)):
        names = ", ".join(silent)
        return {"cause": "node_lost", "message": f"lost node {names}: srun ended with {code}, see batch.log"}
    where = "on node {} ({} of {})".format(record["node"], record["rank"], job.plan["num_nodes"])
    more = {"exit_code": record["exit_code"], "signal": record["signal"], "failed_node": record["node"]}
    if record["is_out_of_memory"]:
        return dict(more, cause="out_of_memory", message=f"out of memory {where}")
    if record["warned"] and record["exit_code"] == REQUEUE_EXIT_CODE:
        message = f"it was told to end {where}, saved its state and asked to be started again"
        return dict(more, cause="preempted", message=message)
    if record["signal"]:
        return dict(more, cause="signal", message="ended by signal {} {}".format(record["signal"], where))
    return dict(more, cause="exit", message=record["message"] or "exit code {} {}".format(record["exit_code"], where))


def is_to_be_requeued(job: Job, record: dict[str, Any] | None, more: dict[str, Any]) -> bool:
    """Whether Slurm shall find it nodes again: it was told to leave them, or one of them is gone."""
    is_told = job.is_warned or bool(record and record["warned"])
    return (is_told or more["cause"] == "node_lost") and job.may_be_requeued() and not has_stop_note(job)


def is_to_be_retried(job: Job, more: dict[str, Any]) -> bool:
    """Whether it is started again here and now."""
    is_useful = more.get("exit_code") not in USELESS_TO_RETRY
    return is_useful and not job.is_warned and job.may_start_again() and not has_stop_note(job)


def has_stop_note(job: Job) -> bool:
    """Whether a user asked us for its end."""
    return os.path.exists(os.path.join(job.directory, "stop"))


def is_taken(job: Job) -> bool:
    """Whether Slurm itself is ending the job, by scancel or to requeue it: then it also knows what comes next."""
    if not job.is_warned:
        return False
    states = lines_from(["squeue", "-h", "-j", job.slurm_id, "-o", "%T"])
    return bool(states) and states[0] not in ("RUNNING", "SIGNALING")


def requeue(job: Job, more: dict[str, Any]) -> None:
    """Ask Slurm to start the job again. Slurm ends us for it; coming back means that it would not."""
    job.tell("REQUEUED", **more)
    done = subprocess.run(
        ["scontrol", "requeue", job.slurm_id], stderr=subprocess.PIPE, timeout=ASK_SECONDS, check=False
    )
    if done.returncode == 0:
        time.sleep(REQUEUE_PATIENCE_SECONDS)
    more["message"] = "{}; Slurm did not requeue it: {}".format(
        more["message"],
        done.stderr.decode(errors="replace").strip(),
    )


def address_of(node: str) -> str:
    """The node's name, where it is known to the network; else the address that Slurm has for it."""
    try:
        socket.getaddrinfo(node, None)
        return node
    except OSError:
        words = " ".join(lines_from(["scontrol", "--oneliner", "show", "node", node])).split()
        return next((word.partition("=")[2] for word in words if word.startswith("NodeAddr=")), node)


def free_port() -> int:
    """A port that nobody listens on, on this node, which is node 0."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        port: int = listener.getsockname()[1]
        return port


def lines_from(command: list[str]) -> list[str]:
    """What a program of Slurm's prints."""
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=ASK_SECONDS, check=False)
    return done.stdout.decode().splitlines()


def read_json(path: str) -> dict[str, Any]:
    """The document, or an empty one where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def write_json(path: str, document: dict[str, Any]) -> None:
    """Put the document in place as a whole, and durably: Slurm may forget the job before anybody reads it."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)


def forget(path: str) -> None:
    """Remove a file that may be gone."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def now() -> str:
    """The time, as in JobStatus."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


if __name__ == "__main__":
    with os.fdopen(4, encoding="utf-8") as told:
        PLAN = json.load(told)
    sys.exit(run_job(PLAN, sys.argv[1]))
