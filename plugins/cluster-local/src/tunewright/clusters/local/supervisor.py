"""Runs one job to its end and writes down what became of it. Standard library only, and no import of ours.

A copy of this file is started by the machine's own Python (`python -I -S supervisor.py STATE_DIRECTORY`, the secrets
as JSON on standard input): it needs neither the launcher nor its PEX, which may be gone long before the job is.

In the state directory: `process.json` is the plan; `state.json` is replaced at each change; `lock` is held as long as
this process lives; `stop` is made by whoever wants the job to end; `supervisor.log` is what this program complains of.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import signal
import sys
import time

TYPE_CHECKING = False  # `typing` itself would cost a third of the time until the job starts
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from typing import Any, NoReturn

CGROUP_ROOT = "/sys/fs/cgroup"
BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
WATCH_SECONDS = 0.2
TRACK_SECONDS = 2.0
LOCK_SECONDS = 1.0
LAST_WORD_SECONDS = 3600
LONGEST_PAUSE_SECONDS = 30.0
# The trainer's and the launcher's words for "the input is wrong": another attempt would end the same.
HOPELESS_EXIT_CODES = (64, 65, 66, 77, 78)
WAKING_SIGNALS = frozenset({signal.SIGCHLD, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
STARTED, TAKEN = b"started", b"taken"
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


# Processes: what /proc knows of them.


class ProcessRow:
    """One line of the process table."""

    def __init__(self, pid: int, fields: list[bytes]) -> None:
        self.pid = pid
        self.is_zombie = fields[0] == b"Z"
        self.parent = int(fields[1])
        self.session = int(fields[3])
        self.start_time = int(fields[19])
        """In clock ticks since the machine started: with the pid it names one process for good."""

    @property
    def identity(self) -> list[int]:
        """What is written down of a process: JSON has no tuples."""
        return [self.pid, self.start_time]


def process_row(pid: int) -> ProcessRow | None:
    """The process with this pid, or None."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name in parentheses may hold anything, parentheses and spaces too.
            return ProcessRow(pid, file.read().rsplit(b")", 1)[1].split())
    except (OSError, IndexError):
        return None


def identity_of(pid: int) -> list[int] | None:
    """[pid, start time] of a process, or None where there is none."""
    row = process_row(pid)
    return row.identity if row else None


def process_table() -> dict[int, ProcessRow]:
    """Every process that runs; zombies are left out."""
    rows = (process_row(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {row.pid: row for row in rows if row and not row.is_zombie}


def descendants(ancestor: int, table: dict[int, ProcessRow]) -> set[int]:
    """Every process below `ancestor`. Daemons are found too where `ancestor` is a subreaper: they come back to it."""
    children: dict[int, list[int]] = {}
    for row in table.values():
        children.setdefault(row.parent, []).append(row.pid)
    found: set[int] = set()
    new = children.get(ancestor, [])
    while new:
        found.update(new)
        # The table was not read in one moment: a pid used anew could make a circle of it.
        new = [child for pid in new for child in children.get(pid, []) if child not in found]
    return found - {ancestor}


def send(pids: Collection[int], number: int) -> None:
    """Signal each of `pids`; those that are gone or another user's are passed over."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def resident_bytes(pids: Collection[int]) -> int:
    """Resident memory of all `pids`; what they share counts once for each."""
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    return sum(int(text.split()[1]) * page_bytes for text in _proc_texts(pids, "statm"))


def proportional_bytes(pids: Collection[int]) -> int:
    """Resident memory of all `pids`, what they share divided among them: exact, and dear for large processes."""
    lines = (line for text in _proc_texts(pids, "smaps_rollup") for line in text.splitlines())
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(b"Pss:"))


def _proc_texts(pids: Collection[int], name: str) -> Iterator[bytes]:
    for pid in pids:
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                text = file.read()
        except OSError:
            continue
        if text:
            yield text


def uses_more_than(limit_bytes: int, pids: Collection[int]) -> bool:
    """Whether `pids` hold more than `limit_bytes` together. The cheap upper bound is asked first."""
    return resident_bytes(pids) > limit_bytes and proportional_bytes(pids) > limit_bytes


def prctl(option: int, value: int) -> None:
    """Linux's prctl(2) with one argument."""
    import ctypes  # the launcher imports this module too, and has no use for it

    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def this_place() -> dict[str, str]:
    """Where a pid means something: the machine, its start, and the name space of its pids (a container has its own)."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip()
    return {"host": os.uname().nodename, "boot": boot, "pids": os.readlink("/proc/self/ns/pid")}


# Control groups: where the kernel lets us make one, it holds the whole tree, bounds its memory, and counts kills.


class ControlGroup:
    """A memory control group of our own."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._is_v2 = os.path.exists(os.path.join(path, "memory.max"))
        self._events = os.path.join(path, "memory.events" if self._is_v2 else "memory.oom_control")

    def has_memory_controller(self) -> bool:
        """Whether the kernel bounds and counts here."""
        return os.path.exists(self._events)

    def limit(self, limit_bytes: int) -> None:
        """Bound memory and swap together."""
        if self._is_v2:
            self._write("memory.max", str(limit_bytes))
            self._write_if_there("memory.swap.max", "0")
        else:
            self._write("memory.limit_in_bytes", str(limit_bytes))
            self._write_if_there("memory.memsw.limit_in_bytes", str(limit_bytes))

    def adopt(self, pid: int) -> None:
        """Put a process in; its children will be born in here."""
        self._write("cgroup.procs", str(pid))

    def members(self) -> set[int]:
        """The pids of all processes in it."""
        try:
            with open(os.path.join(self.path, "cgroup.procs")) as file:
                return {int(line) for line in file}
        except OSError:
            return set()

    def num_memory_kills(self) -> int:
        """How many of its processes the kernel has killed for memory."""
        try:
            with open(self._events) as file:
                return sum(int(line.split()[1]) for line in file if line.startswith("oom_kill "))
        except OSError:
            return 0  # somebody took the group away: the exit code must do

    def remove(self) -> None:
        """Take it away. The kernel needs a moment after the last process."""
        for _ in range(40):
            try:
                os.rmdir(self.path)
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.025)
            else:
                return

    def _write(self, name: str, text: str) -> None:
        with open(os.path.join(self.path, name), "w") as file:
            file.write(text)

    def _write_if_there(self, name: str, text: str) -> None:
        if os.path.exists(os.path.join(self.path, name)):
            self._write(name, text)


def group_parents() -> Iterator[str]:
    """Directories in which a memory control group could be made, the best first."""
    try:
        with open("/proc/self/cgroup") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return
    for _, controllers, own in lines:
        if controllers == "" and os.path.exists(os.path.join(CGROUP_ROOT, "cgroup.controllers")):
            yield from _v2_parents(os.path.normpath(f"{CGROUP_ROOT}/{own}"))
        elif "memory" in controllers.split(","):
            yield os.path.normpath(f"{CGROUP_ROOT}/memory/{own}")


def _v2_parents(directory: str) -> Iterator[str]:
    """A v2 group with processes in it cannot bound its children: then a sibling, where no limit is escaped by that."""
    while True:
        yield directory
        try:
            with open(os.path.join(directory, "memory.max")) as file:
                is_limited = file.read().strip() != "max"
        except OSError:
            is_limited = False
        if is_limited or len(directory) <= len(CGROUP_ROOT):
            return
        directory = os.path.dirname(directory)


def make_group(name: str, limit_bytes: int | None) -> ControlGroup | None:
    """A new memory control group, or None where none can be made."""
    for parent in group_parents():
        path = os.path.join(parent, name)
        try:
            os.mkdir(path)
        except OSError:
            continue
        group = ControlGroup(path)
        if group.has_memory_controller() and _is_limited(group, limit_bytes):
            return group
        group.remove()
    return None


def _is_limited(group: ControlGroup, limit_bytes: int | None) -> bool:
    try:
        if limit_bytes is not None:
            group.limit(limit_bytes)
    except OSError:
        return False
    return True


# The job.


def now() -> str:
    """The time, as `tunewright.contracts.timestamps` writes it."""
    moment = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(moment))}.{int(moment * 1000) % 1000:03d}Z"


def job_environment(plan: dict[str, Any], secrets: dict[str, str], attempt: int) -> dict[str, str]:
    """Every variable the job gets: what was planned, a fixed base, and nothing of the launcher's."""
    try:
        user = pwd.getpwuid(os.getuid())
        home, name = user.pw_dir, user.pw_name
    except KeyError:  # a container's made-up user
        home, name = "/", str(os.getuid())
    base = {"PATH": BASE_PATH, "HOME": home, "USER": name, "LANG": "C.UTF-8"}
    return {**base, **plan["variables"], **secrets, "TUNEWRIGHT_ATTEMPT": str(attempt)}


def become_job(plan: dict[str, Any], environment: dict[str, str], log: int, gate: int, errors: int) -> NoReturn:
    """In the forked child: turn into the job's main process, or say in `errors` why that cannot be."""
    missing = plan["run_dir"]
    try:
        os.setsid()
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if not os.read(gate, 1):
            os._exit(1)  # the supervisor died just now
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.chdir(missing)
        missing = plan["arguments"][0]
        os.execvpe(plan["arguments"][0], plan["arguments"], environment)
    except OSError as error:
        os.write(errors, f"{error.errno} {missing}: {error.strerror}".encode())
    finally:
        os._exit(127)


def judge(ended_by: str | None, wait_status: int, num_memory_kills: int, plan: dict[str, Any]) -> dict[str, Any]:
    """What became of an attempt: its state, cause, exit code, signal and a sentence."""
    number = os.WTERMSIG(wait_status) if os.WIFSIGNALED(wait_status) else None
    code = os.WEXITSTATUS(wait_status) if os.WIFEXITED(wait_status) else None
    state, cause, message = _verdict(ended_by, code, number, num_memory_kills, plan)
    return {"state": state, "cause": cause, "exit_code": code, "signal": number, "message": message}


def _verdict(
    ended_by: str | None, code: int | None, number: int | None, num_memory_kills: int, plan: dict[str, Any]
) -> tuple[str, str, str]:
    if ended_by:
        return _verdict_on_ended(ended_by, plan)
    if code == 0:
        return "SUCCEEDED", "exit", ""
    if num_memory_kills:
        limit = plan["memory_gib"]
        why = f"needed more than memory_gib = {limit}" if limit else "the machine's memory was full"
        return "FAILED", "out_of_memory", why
    if number is not None:
        return "FAILED", "signal", f"killed by {signal_name(number)}"
    return "FAILED", "exit", f"ended with exit code {code}"


def _verdict_on_ended(ended_by: str, plan: dict[str, Any]) -> tuple[str, str, str]:
    if ended_by == "timeout":
        return "TIMED_OUT", "timeout", f"ran longer than time_limit_seconds = {plan['time_limit_seconds']}"
    if ended_by == "memory":
        how = f"looked at every {WATCH_SECONDS} s, since no control group can be made here"
        return "FAILED", "out_of_memory", f"used more than memory_gib = {plan['memory_gib']} ({how})"
    return "STOPPED", "stopped", ended_by


def signal_name(number: int) -> str:
    """`SIGKILL` for 9; real-time signals have numbers only."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Supervisor:
    """One job, from its first attempt to its end."""

    def __init__(self, directory: str, secrets: dict[str, str]) -> None:
        self.directory = directory
        with open(os.path.join(directory, "process.json"), encoding="utf-8") as file:
            self.plan: dict[str, Any] = json.load(file)
        self.secrets = secrets
        self.group: ControlGroup | None = None
        self.main = 0
        self.wait_status: int | None = None
        self.stop_reason: str | None = None
        self.history: list[dict[str, Any]] = []
        self.document: dict[str, Any] = {
            "state": None, "attempt": 0, "started_at": None, "place": this_place(), "job": None,
            "supervisor": identity_of(os.getpid()), "group": None, "apart": [], "history": self.history,
        }  # fmt: skip
        limit = self.plan["time_limit_seconds"]
        self.deadline = time.monotonic() + limit if limit is not None else float("inf")
        self.next_tracking = time.monotonic() + TRACK_SECONDS

    @property
    def attempt(self) -> int:
        """0 for the first start."""
        return int(self.document["attempt"])

    @property
    def limit_bytes(self) -> int | None:
        """The job's memory."""
        return int(self.plan["memory_gib"] * 2**30) if self.plan["memory_gib"] is not None else None

    def change_state(self, state: str, **values: Any) -> bool:
        """Go over to `state`, with what is now known, and keep it in the history. False where it cannot be written."""
        self.document.update(values, state=state)
        told = {key: value for key, value in values.items() if key in ("cause", "exit_code", "signal", "message")}
        self.history.append({"time": now(), "state": state, "attempt": self.attempt, **told})
        return self.write_document()

    def write_document(self) -> bool:
        """Replace `state.json`: a reader sees the old one or the new one. A full disk must not harm a running job."""
        temporary = os.path.join(self.directory, ".state.json.tmp")
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(json.dumps(self.document, indent=1))
                file.flush()
                if "ended_at" in self.document:  # before its end, a job does not survive a power cut either
                    os.fsync(file.fileno())
            os.replace(temporary, os.path.join(self.directory, "state.json"))
        except OSError as error:
            print(f"cannot write state.json: {error}", file=sys.stderr, flush=True)
            return False
        return True

    def run(self) -> None:
        """Attempt after attempt, to the last word."""
        while True:
            outcome = self.run_attempt()
            if not self.may_try_again(outcome):
                break
            follows = f"retry {self.attempt + 1} of {self.plan['max_retries']} follows"
            self.change_state(**{**outcome, "state": "REQUEUED", "message": f"{outcome['message']}; {follows}"})
            self.document["attempt"] += 1
            self.pause(min(0.2 * 2.0 ** min(self.attempt - 1, 10), LONGEST_PAUSE_SECONDS))
        self.end(outcome)

    def may_try_again(self, outcome: dict[str, Any]) -> bool:
        """Whether another attempt is left and could end better."""
        left = self.attempt < self.plan["max_retries"]
        return left and outcome["state"] == "FAILED" and outcome["exit_code"] not in HOPELESS_EXIT_CODES

    def end(self, outcome: dict[str, Any]) -> None:
        """Write the last word. A full disk may become free again: nobody else knows how the job ended."""
        is_written = self.change_state(**outcome, ended_at=now())
        for _ in range(LAST_WORD_SECONDS):
            if is_written:
                return
            time.sleep(1)
            is_written = self.write_document()

    def run_attempt(self) -> dict[str, Any]:
        """Start the job once and see it to its end. Nothing of it is left then."""
        reason = self.reason_to_end()
        if reason:
            return {**judge(reason, 0, 0, self.plan), "exit_code": None}
        name = f"tunewright-{os.getpid()}-{self.document['supervisor'][1]}-{self.attempt}"
        self.group = make_group(name, self.limit_bytes)
        self.document.update(group=self.group.path if self.group else None)
        self.write_document()  # before the start: whoever clears up after us must find it
        try:
            self.start()
            return self.see_to_its_end()
        except OSError as error:
            code = 127 if isinstance(error, FileNotFoundError) else 126
            message = f"cannot start: {error.strerror}"
            return {"state": "FAILED", "cause": "image_missing", "exit_code": code, "signal": None, "message": message}
        finally:
            if self.group:
                self.group.remove()

    def see_to_its_end(self) -> dict[str, Any]:
        """From the started main process to the verdict, with nothing of the tree left."""
        self.change_state(
            "RUNNING", started_at=self.document["started_at"] or now(), job=identity_of(self.main),
            cause=None, exit_code=None, signal=None, message="",
        )  # fmt: skip
        ended_by = self.watch()
        self.end_tree(0.0 if ended_by == "memory" else self.plan["stop_grace_seconds"])
        assert self.wait_status is not None
        return judge(ended_by, self.wait_status, self.group.num_memory_kills() if self.group else 0, self.plan)

    def start(self) -> None:
        """Fork the job's main process, put it into its group, and let it go. Raises OSError where that cannot be."""
        os.makedirs(os.path.dirname(self.plan["log"]), exist_ok=True)
        log = os.open(self.plan["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        gate_out, gate_in = os.pipe()
        errors_out, errors_in = os.pipe()
        environment = job_environment(self.plan, self.secrets, self.attempt)
        self.wait_status, self.main = None, os.fork()
        if self.main == 0:
            os.close(gate_in)
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # before the gate: a supervisor killed earlier never opens it
            become_job(self.plan, environment, log, gate_out, errors_in)
        for descriptor in (log, gate_out, errors_in):
            os.close(descriptor)
        self.adopt_main()
        os.write(gate_in, b"!")
        os.close(gate_in)
        with open(errors_out, "rb") as file:
            complaint = file.read().decode(errors="replace")
        if complaint:
            os.waitpid(self.main, 0)
            number, _, text = complaint.partition(" ")
            raise OSError(int(number), text)

    def adopt_main(self) -> None:
        """Without permission for that, memory is watched instead."""
        if self.group:
            try:
                self.group.adopt(self.main)
            except OSError:
                self.group.remove()
                self.group, self.document["group"] = None, None

    def watch(self) -> str | None:
        """Wait for the main process. Gives why it must be ended before it has ended itself, or None."""
        while not self.has_main_ended():
            reason = self.reason_to_end() or ("memory" if self.is_over_memory() else None)
            if reason:
                return reason
            self.track()
            self.nap(WATCH_SECONDS)
        return None

    def reason_to_end(self) -> str | None:
        """`timeout`, a sentence for a stop, or None."""
        if self.stop_reason is None and os.path.exists(os.path.join(self.directory, "stop")):
            self.stop_reason = "stopped by a user"
        return self.stop_reason or ("timeout" if time.monotonic() > self.deadline else None)

    def is_over_memory(self) -> bool:
        """Only asked for where the kernel does not bound it."""
        if self.limit_bytes is None or self.group:
            return False
        return uses_more_than(self.limit_bytes, descendants(os.getpid(), process_table()))

    def track(self) -> None:
        """Where there is no group, write down who left the job's session: if we are killed, they can still be found."""
        if self.group or time.monotonic() < self.next_tracking:
            return
        self.next_tracking = time.monotonic() + TRACK_SECONDS
        table = process_table()
        tree = [table[pid] for pid in sorted(descendants(os.getpid(), table))]
        apart = [row.identity for row in tree if row.session != self.main]
        if apart != self.document["apart"]:
            self.document["apart"] = apart
            self.write_document()

    def has_main_ended(self) -> bool:
        """Reaps what has ended, and says whether the main process has."""
        self.reap()
        return self.wait_status is not None

    def reap(self) -> None:
        """Collect ended children; orphans of the job are ours too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.main:
                self.wait_status = status

    def end_tree(self, grace_seconds: float) -> None:
        """SIGTERM to every process of the job, SIGKILL to those that are left after the grace."""
        end = time.monotonic() + grace_seconds
        left = self.tree()
        if grace_seconds:
            send(left, signal.SIGTERM)
        while left and time.monotonic() < end:
            self.nap(0.02)
            left = self.tree()
        while left or not self.has_main_ended():
            send(left, signal.SIGKILL)
            self.nap(0.02)
            left = self.tree()

    def tree(self) -> set[int]:
        """Every living process of the job, after collecting the dead."""
        self.reap()
        return descendants(os.getpid(), process_table())

    def pause(self, seconds: float) -> None:
        """Wait before the next attempt, unless there is a reason to end."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.reason_to_end():
            self.nap(min(WATCH_SECONDS, max(0.0, end - time.monotonic())))

    def nap(self, seconds: float) -> None:
        """Sleep until a signal comes. Whoever ends the supervisor politely (a shutdown, `kill`) ends the job."""
        info = signal.sigtimedwait(WAKING_SIGNALS, seconds)
        if info is not None and info.si_signo in (signal.SIGTERM, signal.SIGINT):
            self.stop_reason = self.stop_reason or f"its supervisor got {signal_name(info.si_signo)}"


# The program.


def take_lock(directory: str) -> bool:
    """Hold the job's lock for good, or give False: another supervisor has it. Who only looks holds it for a moment."""
    lock = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        else:
            return not os.path.exists(os.path.join(directory, "state.json"))


def tell_submitter(word: bytes) -> None:
    """Answer on standard output, and close it: the submitter waits for that."""
    with contextlib.suppress(BrokenPipeError):  # it died while it waited; the job is accepted all the same
        os.write(1, word)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)


def main(directory: str) -> None:
    """Take the job over from the submitter and run it, as a daemon."""
    text = sys.stdin.buffer.read()
    if not text.endswith(b"\n"):
        return  # the submitter died in the middle: whoever submits again starts another supervisor
    if os.fork():
        os._exit(0)  # the submitter collects this one; the daemon is nobody's child
    signal.pthread_sigmask(signal.SIG_BLOCK, WAKING_SIGNALS)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    if not take_lock(directory):
        tell_submitter(TAKEN)
        return
    supervisor = Supervisor(directory, json.loads(text))
    if supervisor.change_state("STARTING"):
        tell_submitter(STARTED)
        supervisor.run()


if __name__ == "__main__":
    main(sys.argv[1])
