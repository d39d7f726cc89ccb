"""Runs one job to its end and writes down what became of it. Standard library only, and no import of ours.

A copy of this file is started by the machine's own Python (`python -I supervisor.py STATE_DIRECTORY`, secrets as JSON on
standard input): it needs neither the launcher nor its PEX, which may be gone long before the job is.

In the state directory: `process.json` is the plan; `state.json` is replaced at each change; `lock` is held as long as this
process lives; `stop` is made by whoever wants the job to end.
"""

from __future__ import annotations

import ctypes
import datetime
import fcntl
import json
import os
import pwd
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KEY_VARIABLE = "TUNEWRIGHT_JOB_KEY"
WATCH_SECONDS = 0.2
# The trainer's and the launcher's words for "the input is wrong": another attempt would end the same.
HOPELESS_EXIT_CODES = (64, 65, 66, 77, 78)
SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}


def now():
    moment = datetime.datetime.now(datetime.timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def prctl(option, value):
    try:
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
    except (OSError, AttributeError):
        pass  # not Linux: stray grandchildren are then found by their key alone


def start_time(pid):
    """The kernel's start time of a process: with the pid it names one process for good. None where there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rsplit(b")", 1)[1].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def processes():
    """pid -> parent's pid, of everything that runs; zombies are left out."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rsplit(b")", 1)[1].split()
            except (OSError, IndexError):
                continue
            if fields[0] != b"Z":
                parents[int(name)] = int(fields[1])
    return parents


def has_key(pid, key):
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"{KEY_VARIABLE}={key}".encode() in file.read().split(b"\0")
    except OSError:
        return False


def job_processes(key, ancestor):
    """Every process of the job: descendants of `ancestor` (daemons come back to it), and whoever has the job's key."""
    parents = processes()
    found = set()
    for pid in parents:
        line = pid
        while line in parents and line != ancestor:
            line = parents[line]
        if pid != ancestor and (line == ancestor or has_key(pid, key)):
            found.add(pid)
    return found - {os.getpid()}


def send(pids, number):
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def resident_bytes(pids):
    page = os.sysconf("SC_PAGE_SIZE")
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/statm", "rb") as file:
                fields = file.read().split()
        except OSError:
            continue
        total += (int(fields[1]) - int(fields[2])) * page  # shared pages would be counted once for each process
    return total


class MemoryGroup:
    """A control group that bounds the tree's memory, version 2 or 1, where the kernel lets us make one."""

    def __init__(self, limit_bytes, name):
        self.path = None
        for make in (self._make_v2, self._make_v1):
            try:
                make(limit_bytes, name)
                return
            except OSError:
                self.remove()

    def _make_v2(self, limit_bytes, name):
        if not os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
            raise OSError("no unified hierarchy")
        own = next(line[3:].strip() for line in open("/proc/self/cgroup") if line.startswith("0::"))
        path = os.path.join("/sys/fs/cgroup", own.lstrip("/"), name)
        os.mkdir(path)
        self.path, self.tasks, self.events = path, "cgroup.procs", "memory.events"
        self._write("memory.max", str(limit_bytes))
        if os.path.exists(os.path.join(path, "memory.swap.max")):
            self._write("memory.swap.max", "0")

    def _make_v1(self, limit_bytes, name):
        lines = [line.strip().split(":", 2) for line in open("/proc/self/cgroup")]
        own = next((line[2] for line in lines if "memory" in line[1].split(",")), None)
        if own is None:
            raise OSError("no memory controller")
        path = os.path.join("/sys/fs/cgroup/memory", own.lstrip("/"), name)
        os.mkdir(path)
        self.path, self.tasks, self.events = path, "cgroup.procs", "memory.oom_control"
        self._write("memory.limit_in_bytes", str(limit_bytes))
        if os.path.exists(os.path.join(path, "memory.memsw.limit_in_bytes")):
            self._write("memory.memsw.limit_in_bytes", str(limit_bytes))

    def _write(self, name, text):
        with open(os.path.join(self.path, name), "w") as file:
            file.write(text)

    def join(self):
        """Called in the child, before it becomes the job."""
        if self.path:
            self._write(self.tasks, str(os.getpid()))

    def kills(self):
        """How often the kernel has killed for memory in this group."""
        if not self.path:
            return 0
        with open(os.path.join(self.path, self.events)) as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("oom_kill "))

    def remove(self):
        if self.path:
            for _ in range(20):
                try:
                    os.rmdir(self.path)
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.05)
            self.path = None


class Supervisor:
    """One job, from its first attempt to its end."""

    def __init__(self, directory, secrets):
        self.directory = directory
        self.key = os.path.basename(directory)
        with open(os.path.join(directory, "process.json")) as file:
            self.plan = json.load(file)
        self.secrets = secrets
        self.attempt = 0
        self.started_at = None
        limit = self.plan["time_limit_seconds"]
        self.deadline = time.monotonic() + limit if limit else None
        self.main_status = None

    def write_state(self, state, **values):
        document = {
            "state": state,
            "attempt": self.attempt,
            "started_at": self.started_at,
            "supervisor": [os.getpid(), start_time(os.getpid())],
            **values,
        }
        temporary = os.path.join(self.directory, ".state.json.tmp")
        with open(temporary, "w") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, os.path.join(self.directory, "state.json"))

    def environment(self):
        user = pwd.getpwuid(os.getuid())
        base = {"PATH": BASE_PATH, "HOME": user.pw_dir, "USER": user.pw_name, "LANG": "C.UTF-8"}
        own = {"TUNEWRIGHT_ATTEMPT": str(self.attempt), KEY_VARIABLE: self.key}
        return {**base, **self.plan["variables"], **self.secrets, **own}

    def run(self):
        while True:
            outcome = self.run_attempt()
            again = (
                outcome["state"] == "FAILED"
                and outcome.get("exit_code") not in HOPELESS_EXIT_CODES
                and self.attempt < self.plan["max_retries"]
            )
            if not again:
                self.write_state(outcome.pop("state"), ended_at=now(), **outcome)
                return
            self.attempt += 1
            outcome["message"] = f"attempt {self.attempt} of {self.plan['max_retries']} follows; {outcome['message']}"
            outcome.pop("state")
            self.write_state("REQUEUED", **outcome)
            self.pause(min(0.5 * 2**self.attempt, 30))

    def pause(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.is_stopped():
            signal.sigtimedwait(SIGNALS, max(0.0, min(WATCH_SECONDS, end - time.monotonic())))

    def is_stopped(self):
        return os.path.exists(os.path.join(self.directory, "stop"))

    def run_attempt(self):
        if self.is_stopped():
            return {"state": "STOPPED", "cause": "stopped", "message": "stopped before it started"}
        self.main_status = None
        limit = self.plan["memory_gib"]
        limit_bytes = int(limit * 2**30) if limit else None
        group = MemoryGroup(limit_bytes, f"tunewright-{self.key}-{self.attempt}") if limit_bytes else None
        try:
            main = self.start(group)
        except OSError as error:
            if group:
                group.remove()
            code = 127 if isinstance(error, FileNotFoundError) else 126
            return {"state": "FAILED", "cause": "image_missing", "exit_code": code, "message": f"cannot start: {error}"}
        self.started_at = self.started_at or now()
        self.write_state("RUNNING", job=[main, start_time(main)])
        ended_by = self.watch(main, limit_bytes if group and not group.path else None)
        self.end_tree()
        killed_for_memory = group.kills() if group else 0
        if group:
            group.remove()
        return self.outcome(ended_by, killed_for_memory, limit)

    def start(self, group):
        def become_job():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if group:
                group.join()

        os.makedirs(os.path.dirname(self.plan["log"]), exist_ok=True)
        with open(self.plan["log"], "ab") as log:
            process = subprocess.Popen(
                self.plan["arguments"],
                env=self.environment(),
                cwd=self.plan["run_dir"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=become_job,
            )
        process.returncode = 0  # we reap it ourselves, with all its orphans
        return process.pid

    def watch(self, main, watched_limit_bytes):
        """Wait for the main process. Gives why it was ended: None, "stopped", "timeout" or "out_of_memory"."""
        while True:
            self.reap(main)
            if self.main_status is not None:
                return None
            reason = self.reason_to_end(watched_limit_bytes)
            if reason:
                self.end_tree()
                self.reap(main)
                return reason
            signal.sigtimedwait(SIGNALS, WATCH_SECONDS)

    def reason_to_end(self, watched_limit_bytes):
        if self.is_stopped():
            return "stopped"
        if self.deadline is not None and time.monotonic() > self.deadline:
            return "timeout"
        if watched_limit_bytes and resident_bytes(job_processes(self.key, os.getpid())) > watched_limit_bytes:
            return "out_of_memory"
        return None

    def reap(self, main):
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == main:
                self.main_status = status

    def end_tree(self):
        """SIGTERM to every process of the job, SIGKILL to those that are left after the grace."""
        pids = job_processes(self.key, os.getpid())
        if not pids:
            return
        send(pids, signal.SIGTERM)
        end = time.monotonic() + self.plan["stop_grace_seconds"]
        while time.monotonic() < end and pids:
            signal.sigtimedwait({signal.SIGCHLD}, 0.02)
            self.reap_into_main()
            pids = job_processes(self.key, os.getpid())
        while pids:
            send(pids, signal.SIGKILL)
            signal.sigtimedwait({signal.SIGCHLD}, 0.02)
            self.reap_into_main()
            pids = job_processes(self.key, os.getpid())

    def reap_into_main(self):
        with_main = self.main_pid()
        self.reap(with_main)

    def main_pid(self):
        try:
            with open(os.path.join(self.directory, "state.json")) as file:
                return (json.load(file).get("job") or [None])[0]
        except (OSError, ValueError):
            return None

    def outcome(self, ended_by, killed_for_memory, limit):
        status = self.main_status
        signal_number = os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None
        exit_code = os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None
        base = {"exit_code": exit_code, "signal": signal_number}
        if ended_by == "stopped":
            return {"state": "STOPPED", "cause": "stopped", "message": "stopped by a user", **base}
        if ended_by == "timeout":
            message = f"ran longer than time_limit_seconds = {self.plan['time_limit_seconds']}"
            return {"state": "TIMED_OUT", "cause": "timeout", "message": message, **base}
        if exit_code == 0 and not ended_by:
            return {"state": "SUCCEEDED", "cause": "exit", "message": "", **base}
        if ended_by == "out_of_memory" or killed_for_memory:
            message = f"needed more than memory_gib = {limit}"
            return {"state": "FAILED", "cause": "out_of_memory", "message": message, **base}
        if signal_number:
            message = f"killed by {signal.Signals(signal_number).name}"
            return {"state": "FAILED", "cause": "signal", "message": message, **base}
        return {"state": "FAILED", "cause": "exit", "message": f"ended with exit code {exit_code}", **base}


def main():
    directory = sys.argv[1]
    secrets = json.loads(sys.stdin.buffer.read() or b"{}")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    lock = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return  # another supervisor has this job already
    if os.path.exists(os.path.join(directory, "state.json")):
        return  # ... and had it
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    supervisor = Supervisor(directory, secrets)
    supervisor.write_state("STARTING")
    supervisor.run()


if __name__ == "__main__":
    main()
