"""A real Slurm of four nodes on this machine: its controller, an authenticator, and a daemon for each node.

Each node has a process namespace of its own, so that it can die with all that runs on it, and its own control groups,
so that memory is bounded on it as on a machine. Everything lies in one short directory and listens on free ports.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from servers.programs import free_port, need_program, refuse, running

NODES = ("n1", "n2", "n3", "n4")
_CONTROLLERS = ("memory", "freezer")
_GROUPS = Path("/sys/fs/cgroup")
_ASK_SECONDS = 30
_END_SECONDS = 5
_PROGRAMS = {
    "munged": "munge",
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "sbatch": "slurm-wlm",
    "unshare": "util-linux",
}

_CONFIGURATION = """
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool-%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd-%n.log
SlurmdParameters=config_overrides
EnforcePartLimits=ALL
FirstJobId={first_job}
ProctrackType={proctrack}
TaskPlugin={task}
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerNode=200
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType={accounting}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
SlurmctldTimeout=5
SlurmdTimeout=8
MinJobAge={min_job_age}
KillWait=1
UnkillableStepTimeout=60
CompleteWait=0
InactiveLimit=0
ReturnToService=2
GresTypes=gpu
PartitionName=main Nodes=n[1-4] Default=YES MaxTime=INFINITE State=UP PriorityTier=5
PartitionName=low Nodes=n[1-4] Default=NO MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=5
PartitionName=high Nodes=n[1-4] Default=NO MaxTime=INFINITE State=UP PriorityTier=9
"""


@dataclass
class SlurmCluster:
    """A running Slurm. Its programs find it by SLURM_CONF alone."""

    directory: Path
    """Where everything of it lies."""

    has_memory_limits: bool
    """Whether a control group can bound a job's memory here."""

    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    """The process of each node."""

    @property
    def variables(self) -> Mapping[str, str]:
        """What a client needs to find it."""
        return {"SLURM_CONF": str(self.directory / "slurm.conf")}

    def ask(self, *command: str) -> str:
        """What one of Slurm's programs prints."""
        done = subprocess.run(
            command, env={**os.environ, **self.variables}, capture_output=True, text=True, timeout=_ASK_SECONDS,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def kill_node(self, node: str) -> None:
        """End the node with everything that runs on it, as a power cut does."""
        process = self.daemons[node]
        for child in _children(process.pid):
            os.kill(child, signal.SIGKILL)  # the first process of its namespace: the kernel ends the others
        process.kill()
        process.wait()

    def start_node(self, node: str) -> None:
        """Start the daemon of a node, which registers by itself."""
        log = self.directory / f"start-{node}.log"
        groups = [self._group(controller, node) for controller in _CONTROLLERS] if self.has_memory_limits else []
        mounts = [f"mount --bind {group} {_GROUPS / name}" for group, name in zip(groups, _CONTROLLERS, strict=False)]
        script = " && ".join([*mounts, f"exec {_path('slurmd')} -D -N {node} -f {self.directory}/slurm.conf"])
        command = [_path("setpriv"), "--pdeathsig", "KILL", _path("unshare"), "--mount", "--pid", "--fork"]
        command += ["--mount-proc", "--kill-child", "sh", "-c", script]
        with log.open("wb") as output:
            self.daemons[node] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self._daemon_variables()
            )

    def await_nodes(self, seconds: float = 30) -> None:
        """Until every node is ready for work."""
        deadline = time.monotonic() + seconds
        while (states := self.ask("sinfo", "-h", "-N", "-p", "main", "-o", "%t").split()) != ["idle"] * len(NODES):
            said = "".join(path.read_text(errors="replace")[-1500:] for path in self.directory.glob("*.log"))
            assert time.monotonic() < deadline, f"the nodes are {states}: {said}"
            time.sleep(0.05)

    def end_nodes(self) -> None:
        """End all nodes, and what they have left in the control groups."""
        for node in self.daemons:
            with suppress(ProcessLookupError):
                self.kill_node(node)
        for node in NODES:
            for controller in _CONTROLLERS:
                _remove_group(self._group(controller, node))

    def _group(self, controller: str, node: str) -> Path:
        return _GROUPS / controller / f"{self.directory.name}-{node}"

    def make_groups(self) -> None:
        """A control group for each node, under which it makes those of its jobs."""
        for controller in _CONTROLLERS:
            for node in NODES:
                self._group(controller, node).mkdir()

    def _daemon_variables(self) -> dict[str, str]:
        return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **self.variables}


@contextmanager
def serve_slurm(min_job_age_seconds: int = 300) -> Iterator[SlurmCluster]:
    """A Slurm of four nodes, until the block ends."""
    if os.getuid() != 0:
        refuse("needs root: Slurm's nodes have namespaces of their own")
    for program, package in _PROGRAMS.items():
        need_program(program, package)
    # Paths of sockets may not be longer than 107 bytes: pytest's own directories are too deep.
    directory = Path(tempfile.mkdtemp(prefix="tw-slurm-"))
    directory.chmod(0o755)
    cluster = SlurmCluster(directory, all(_is_version_1(controller) for controller in _CONTROLLERS))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        _configure(cluster, min_job_age_seconds)
        stack.enter_context(
            running(_munge_command(directory), directory / "munged.log", (directory / "munge.socket").exists)
        )
        if cluster.has_memory_limits:
            cluster.make_groups()
        stack.callback(cluster.end_nodes)
        for node in NODES:
            cluster.start_node(node)
        controller = [_path("slurmctld"), "-D", "-c", "-f", str(directory / "slurm.conf")]
        answers = lambda: _succeeds([_path("scontrol"), "ping"], cluster.variables)  # noqa: E731
        stack.enter_context(running(controller, directory / "controller.log", answers))
        cluster.await_nodes()
        yield cluster


def _configure(cluster: SlurmCluster, min_job_age_seconds: int) -> None:
    directory = cluster.directory
    text = _CONFIGURATION.format(
        name=directory.name,
        host=socket.gethostname().partition(".")[0],
        port=free_port(),
        directory=directory,
        # Two at a time on one machine must not have jobs of one number.
        first_job=1 + os.getpid() % 60000 * 1000,
        proctrack="proctrack/cgroup" if cluster.has_memory_limits else "proctrack/linuxproc",
        task="task/cgroup" if cluster.has_memory_limits else "task/none",
        accounting="accounting_storage/none",
        min_job_age=min_job_age_seconds,
    )
    for node in NODES:
        text += f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={free_port()} CPUs=16 "
        text += "RealMemory=6000 Gres=gpu:2\n"
    devices = [directory / "gpu0", directory / "gpu1"]
    for device in devices:
        subprocess.run(["mknod", str(device), "c", "1", "3"], check=True)
    (directory / "state").mkdir()
    (directory / "slurm.conf").write_text(text)
    (directory / "gres.conf").write_text(f"Name=gpu File={directory}/gpu[0-1]\n")
    (directory / "cgroup.conf").write_text("ConstrainRAMSpace=yes\nConstrainSwapSpace=yes\nAllowedSwapSpace=0\n")


def _munge_command(directory: Path) -> Sequence[str]:
    key = directory / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    paths = [f"--{name}={directory}/munge.{name.partition('-')[0]}" for name in ("socket", "pid-file", "seed-file")]
    return [
        _path("munged"),
        "--foreground",
        "--force",
        f"--key-file={key}",
        f"--log-file={directory}/munge.log",
        *paths,
    ]


def _path(program: str) -> str:
    return need_program(program, _PROGRAMS.get(program, "slurm-wlm"))


def _succeeds(command: Sequence[str], variables: Mapping[str, str]) -> bool:
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, check=False).returncode == 0


def _is_version_1(controller: str) -> bool:
    return os.access(_GROUPS / controller / "tasks", os.W_OK)


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _remove_group(group: Path) -> None:
    """Remove it with all below. What was killed may take a moment to be gone."""
    deadline = time.monotonic() + _END_SECONDS
    while group.exists() and time.monotonic() < deadline:
        for directory, _, _ in os.walk(group, topdown=False):
            with suppress(OSError):
                os.rmdir(directory)
        time.sleep(0.02)
