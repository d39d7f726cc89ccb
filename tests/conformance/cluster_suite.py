"""The checks every cluster must pass. A plugin's tests inherit them in four lines; see README.md beside this file.

Everything is looked at as a user sees it: through the six verbs, and through what jobs print. The suite needs pytest
and the contracts, nothing else.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from conformance.cluster_bench import Bench, opened
from conformance.cluster_orders import OrderConformance
from tunewright.contracts.clusters import Capability, Cluster
from tunewright.contracts.errors import InvalidExperiment, SubmissionRefused, TunewrightError
from tunewright.contracts.jobs import JobHandle, Resources
from tunewright.contracts.plugins import options_type_of
from tunewright.contracts.preflight import Finding
from tunewright.contracts.registry import API_VERSION
from tunewright.contracts.spec import field_descriptions
from tunewright.contracts.status import CauseKind, JobState

AWKWARD = (
    "", " ", "a b", "'", '"', "it's \"so\"", "$HOME", "$$", "$$$", "${x}", "$(echo no)", "`echo no`", "a\nb", "\t",
    "\\", "\\n", "*", "~", "!", ";", "&", "|", "<", ">", "#", "%s", "{x}", "{{x}}", "--", "-x", "é", "日本", "🎉",
    "\x01", "x" * 5000,
)  # fmt: skip
"""What shells, templates and YAML like to change."""

PRINT_ARGUMENTS = "import json, sys; print(json.dumps(sys.argv[1:]))"
PRINT_VARIABLES = "import json, os; print(json.dumps(dict(os.environ)))"
PRINT_BYTES = "import os, sys; os.write(1, bytes.fromhex(sys.argv[1]))"
SLEEP = "import time; print('up', flush=True); time.sleep(600)"
FAIL_TWICE = """
import os, sys
print("attempt", os.environ["TUNEWRIGHT_ATTEMPT"], flush=True)
sys.exit(0 if os.environ["TUNEWRIGHT_ATTEMPT"] == "2" else 9)
"""
# A child, and a grandchild that has left the session; each writes a letter all the time: who lives is heard of.
FAMILY = """
import os, signal, sys, time
def beat(letter):
    for _ in range(3000):
        os.write(1, letter)
        time.sleep(0.02)
if os.fork() == 0:
    beat(b"c")
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        beat(b"g")
    os._exit(0)
if sys.argv[1:] == ["deaf"]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
beat(b"m")
"""
PRINT_RENDEZVOUS = """
import json, os
names = ("NODE_RANK", "MASTER_ADDRESS", "MASTER_PORT")
print(json.dumps([os.environ.get("TUNEWRIGHT_" + name) for name in names]))
"""
# Node 0 waits at the port that all were told, and answers each; the others say who they are.
MEET = """
import os, socket, sys, time
rank, port = os.environ["TUNEWRIGHT_NODE_RANK"], int(os.environ["TUNEWRIGHT_MASTER_PORT"])
if rank == "0":
    listener = socket.create_server(("", port))
    connection, _ = listener.accept()
    print("met", connection.recv(99).decode())
    connection.sendall(b"node 0")
else:
    deadline = time.monotonic() + 30
    while True:
        try:
            connection = socket.create_connection((os.environ["TUNEWRIGHT_MASTER_ADDRESS"], port), timeout=30)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"cannot reach node 0: {error}")
            time.sleep(0.1)
    connection.sendall(b"node " + rank.encode())
    print("met", connection.recv(99).decode())
"""
SAY_LAST_WHEN_LET_GO = """
import os, sys, time
print("first", flush=True)
deadline = time.monotonic() + 6  # a cluster whose logs come at the end only is to be told so, not waited for
while not os.path.exists(sys.argv[1]) and time.monotonic() < deadline:
    time.sleep(0.02)
sys.stdout.write("last")
"""
LAST_NODE_FAILS = """
import os, sys, time
print("up", flush=True)
time.sleep(0.3)
sys.exit(7) if os.environ["TUNEWRIGHT_NODE_RANK"] == "1" else time.sleep(600)
"""
SILENCE_SECONDS = 0.4


class ClusterConformance(OrderConformance):
    """Inherit, and say which cluster: `plugin` and `name`. The rest has defaults."""

    plugin: ModuleType
    """The module of the plugin's entry point."""

    options: ClassVar[Mapping[str, Any]] = {}
    """`[cluster.options]` that every check runs with."""

    python: ClassVar[Sequence[str]] = (sys.executable,)
    """A Python 3 on the cluster's machines, as the beginning of an argument list."""

    patience_seconds: ClassVar[float] = 40.0
    """The longest a small job may take from `submit` to its end."""

    own_variables: ClassVar[frozenset[str]] = frozenset({"PATH", "HOME", "USER", "LANG", "HOSTNAME"})
    """Variables the machine itself gives a job, besides `TUNEWRIGHT_*`."""

    memory_options: ClassVar[Mapping[str, Any] | None] = None
    """Options that allow a job 128 MiB or so. Needed where the cluster has MEMORY_LIMIT."""

    time_limit_options: ClassVar[Mapping[str, Any] | None] = None
    """Options that end a job after a second or so. None where the cluster has no time limit."""

    def give_secret(self, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
        """Make the secret `name` known to the cluster. By default: a variable of the client."""
        monkeypatch.setenv(name, value)

    def home(self, tmp_path: Path) -> Path:
        """An empty directory that the cluster's machines see under the same path."""
        return tmp_path

    def make_bench(self, tmp_path: Path) -> Bench:
        """What the checks work with."""
        home = self.home(tmp_path)
        return Bench(self.plugin, self.name, home, self.python, self.options, self.patience_seconds)

    @pytest.fixture
    def bench(self, tmp_path: Path) -> Iterator[Bench]:
        """A bench whose jobs are ended after the check."""
        with opened(self.make_bench(tmp_path)) as bench:
            yield bench

    # Registering.

    def test_registering_imports_nothing_heavy(self, bench: Bench) -> None:
        answer = json.loads(bench.ask("register"))
        assert not answer["heavy"], f"registering imports {answer['heavy']}"
        assert not answer["has_entry"], f"registering imports the implementation, {bench.info.entry}"

    def test_the_entry_is_a_cluster_of_this_api(self, bench: Bench) -> None:
        assert isinstance(bench.cluster(), Cluster), f"{bench.info.entry} lacks one of the six verbs"
        assert bench.info.api == API_VERSION, f"written for API {bench.info.api}"
        assert bench.info.summary.strip(), "has no summary"

    def test_every_option_has_a_default_and_a_description(self, bench: Bench) -> None:
        described = field_descriptions(options_type_of(bench.info))
        missing = [name for name in options_type_of(bench.info).model_fields if not described.get(name)]
        assert not missing, f"options without a description: {missing}"

    def test_an_unknown_option_is_refused_by_name(self, bench: Bench) -> None:
        with pytest.raises(ValidationError) as caught:
            bench.options(no_such_option=1)
        places = [error["loc"] for error in caught.value.errors()]
        assert ("no_such_option",) in places, f"the unknown option is not named, only {places}"

    def test_a_wrong_type_is_refused_by_the_name_of_each_option(self, bench: Bench) -> None:
        for name in options_type_of(bench.info).model_fields:
            with pytest.raises(ValidationError) as caught:
                bench.options(**{name: object()})
            places = [error["loc"][0] for error in caught.value.errors()]
            assert name in places, f"a wrong `{name}` is not named, only {places}"

    def test_check_gives_findings_and_changes_nothing(self, bench: Bench) -> None:
        started = time.monotonic()
        first, second = bench.cluster().check(), bench.cluster().check()
        assert time.monotonic() - started < 5, "check() is not quick"
        assert all(isinstance(finding, Finding) for finding in first), f"not findings: {first}"
        assert list(first) == list(second), "check() finds something else the second time"

    # Planning.

    def test_a_plan_is_the_same_bytes_in_another_process(self, bench: Bench) -> None:
        job = bench.job(PRINT_ARGUMENTS, *AWKWARD, variables={"B": "2", "A": "1"}, secrets={"S": "name"}).to_document()
        job["secrets"] = job["secrets"] if Capability.SECRETS in bench.info.capabilities else {}
        first = bench.ask("plan", {"PYTHONHASHSEED": "1", "TZ": "UTC", "USER": "one"}, job=job)
        time.sleep(1.01 - time.time() % 1)  # into the next second: a clock to the second shows
        second = bench.ask("plan", {"PYTHONHASHSEED": "2", "TZ": "Asia/Tokyo", "USER": "two"}, job=job)
        assert first == second, "equal jobs give different plans"

    def test_planning_has_no_effect(self, bench: Bench) -> None:
        job = bench.job(PRINT_ARGUMENTS, "x", variables={"A": "1"})
        bench.ask("plan-watched", job=job.to_document())
        left = [path.name for path in Path(job.run_dir).iterdir()]
        assert not left, f"plan() leaves files: {left}"

    def test_another_job_gives_another_plan(self, bench: Bench) -> None:
        job = bench.job(PRINT_ARGUMENTS, "x")
        others = [
            job.model_copy(update={"command": (*job.command, "")}),
            job.model_copy(update={"command": (*job.command[:-1], "x ")}),
            job.model_copy(update={"variables": {"A": ""}}),
        ]
        texts = {bench.plan(one).model_dump_json() for one in (job, *others)}
        assert len(texts) == 1 + len(others), "different jobs give the same plan"

    def test_what_no_process_can_get_is_refused_when_planning(self, bench: Bench) -> None:
        for job in (bench.job(PRINT_ARGUMENTS, "a\0b"), bench.job(PRINT_VARIABLES, variables={"A": "a\0b"})):
            with pytest.raises(InvalidExperiment, match="NUL"):
                bench.plan(job)

    def test_more_nodes_than_it_can_are_refused_in_words(self, bench: Bench) -> None:
        job = bench.job(PRINT_ARGUMENTS).model_copy(update={"resources": Resources(nodes=2)})
        if Capability.MULTINODE in bench.info.capabilities:
            assert bench.plan(job).files, "claims several nodes and plans nothing for them"
            return
        with pytest.raises(InvalidExperiment, match=r"nodes"):
            bench.plan(job)

    # How a job ends.

    def test_a_job_that_ends_well_has_succeeded(self, bench: Bench) -> None:
        status, _ = bench.run("pass")
        assert status.state is JobState.SUCCEEDED, f"exit code 0 is {status}"
        assert status.shell_exit_code == 0, f"exit code 0 became {status.shell_exit_code}"
        assert status.ended_at, "has no time of its end"

    @pytest.mark.parametrize("code", [1, 42, 255])
    def test_an_exit_code_arrives(self, bench: Bench, code: int) -> None:
        status, _ = bench.run("import sys; sys.exit(int(sys.argv[1]))", str(code))
        assert status.state is JobState.FAILED, f"exit code {code} is {status.state}"
        assert status.exit_code == code, f"exit code {code} became {status.exit_code}"
        assert status.cause is CauseKind.EXIT, f"the cause of an exit code is {status.cause}"

    def test_a_signal_is_told(self, bench: Bench) -> None:
        status, _ = bench.run("import os; os.kill(os.getpid(), 9)")
        assert status.state is JobState.FAILED, f"a killed job is {status.state}"
        assert status.shell_exit_code == 128 + 9, f"SIGKILL became {status.shell_exit_code}"

    def test_a_program_that_is_not_there_fails_in_words(self, bench: Bench) -> None:
        try:
            status = bench.wait(bench.submit(bench.command("no-such-program-anywhere", "x")))
        except SubmissionRefused as error:
            assert "no-such-program-anywhere" in str(error), f"does not name the program: {error}"
            return
        assert status.state is JobState.FAILED, f"a missing program is {status.state}"
        assert status.shell_exit_code in (126, 127, 128), f"a missing program ends with {status.shell_exit_code}"

    def test_running_out_of_memory_is_told_apart(self, bench: Bench) -> None:
        self.need(bench, Capability.MEMORY_LIMIT)
        assert self.memory_options is not None, "MEMORY_LIMIT is claimed: set `memory_options`"
        handle = bench.submit(bench.job("x = b'x' * (1 << 30)"), **self.memory_options)
        status = bench.wait(handle)
        assert status.cause is CauseKind.OUT_OF_MEMORY, f"out of memory is {status}"

    def test_a_time_limit_ends_the_job(self, bench: Bench) -> None:
        if self.time_limit_options is None:
            pytest.skip(f"cluster `{self.name}` has no time limit")
        status = bench.wait(bench.submit(bench.job(SLEEP), **self.time_limit_options))
        assert status.state is JobState.TIMED_OUT, f"a job over its time is {status}"
        assert status.cause is CauseKind.TIMEOUT, f"the cause of a job over its time is {status.cause}"

    # What a job gets.

    def test_every_argument_arrives_as_it_is(self, bench: Bench) -> None:
        arrived = bench.report(PRINT_ARGUMENTS, *AWKWARD)
        assert arrived == list(AWKWARD), f"arguments arrive changed: {_first_difference(AWKWARD, arrived)}"

    def test_every_variable_arrives_as_it_is(self, bench: Bench) -> None:
        given = {f"VARIABLE_{number}": value for number, value in enumerate(AWKWARD)}
        arrived = bench.report(PRINT_VARIABLES, variables=given)
        wrong = {name: (value, arrived.get(name)) for name, value in given.items() if arrived.get(name) != value}
        assert not wrong, f"variables arrive changed: {wrong}"

    def test_nothing_of_the_clients_environment_arrives(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("LEAKED", "PYTHONPATH", "PEX_PATH", "VIRTUAL_ENV", "HF_TOKEN", "LD_LIBRARY_PATH"):
            monkeypatch.setenv(name, "from the client")
        arrived = bench.report(PRINT_VARIABLES)
        leaked = sorted(name for name, value in arrived.items() if value == "from the client")
        assert not leaked, f"the client's environment leaks: {leaked}"

    def test_no_variable_is_added_that_nobody_told_of(self, bench: Bench) -> None:
        arrived = bench.report(PRINT_VARIABLES, variables={"MINE": "1"})
        known = {"MINE", "LC_CTYPE", *self.own_variables}  # Python adds LC_CTYPE itself where there is no locale
        extra = sorted(name for name in arrived if name not in known and not name.startswith("TUNEWRIGHT_"))
        assert not extra, f"variables that nobody planned: {extra}"
        assert arrived["TUNEWRIGHT_ATTEMPT"] == "0", "TUNEWRIGHT_ATTEMPT of a first start is not 0"

    def test_standard_input_is_empty(self, bench: Bench) -> None:
        read = bench.report("import json, sys; print(json.dumps(sys.stdin.read()))")
        assert read == "", f"standard input has something in it: {read!r}"

    def test_a_secret_arrives_and_is_written_nowhere(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.need(bench, Capability.SECRETS)
        value = "s3cr3t-'$x\"-value"
        self.give_secret(monkeypatch, "CONFORMANCE_SECRET", value)
        script = "import os, sys; print(os.environ['TOKEN'] == bytes.fromhex(sys.argv[1]).decode())"
        job = bench.job(script, value.encode().hex(), secrets={"TOKEN": "CONFORMANCE_SECRET"})
        texts = [file.text for file in bench.plan(job).files]
        assert not any(form in text for form in _forms(value) for text in texts), (
            "the plan has the secret's value in it"
        )
        assert any("CONFORMANCE_SECRET" in text for text in texts), "the plan does not refer to the secret"
        handle = bench.submit(job)
        assert bench.wait(handle).state is JobState.SUCCEEDED, "the job with a secret failed"
        assert bench.log(handle) == b"True\n", "the secret's value did not arrive"
        files = [path for path in bench.home.rglob("*") if path.is_file()]
        telling = [path for path in files if any(form.encode() in path.read_bytes() for form in _forms(value))]
        assert not telling, f"the secret's value is written in {telling}"

    def test_a_missing_secret_is_refused_by_name(self, bench: Bench) -> None:
        self.need(bench, Capability.SECRETS)
        with pytest.raises(SubmissionRefused, match="NO_SUCH_SECRET"):
            bench.submit(bench.job("pass", secrets={"TOKEN": "NO_SUCH_SECRET"}))

    # Logs.

    def test_a_log_has_the_exact_bytes(self, bench: Bench) -> None:
        data = bytes(range(256)) + b"\r\n\n\xff\xfe last line without newline"
        _, log = bench.run(PRINT_BYTES, data.hex())
        assert log == data, f"the log is not what was written: {log[-60:]!r}"

    def test_standard_output_and_error_are_both_in_the_log(self, bench: Bench) -> None:
        _, log = bench.run("import os; os.write(1, b'one\\n'); os.write(2, b'two\\n'); os.write(1, b'three\\n')")
        assert log == b"one\ntwo\nthree\n", f"output and error are not in order: {log!r}"

    def test_ten_megabytes_of_log_arrive(self, bench: Bench) -> None:
        line = b"0123456789abcde\n"
        _, log = bench.run(f"import sys; [sys.stdout.write({line.decode()!r} * 4096) for _ in range(160)]")
        assert log == line * 4096 * 160, f"of {16 * 4096 * 160} bytes of log {len(log)} arrived"

    def test_a_log_can_be_read_from_any_byte(self, bench: Bench) -> None:
        handle = bench.submit(bench.job("print('0123456789')"))
        bench.wait(handle)
        pieces = [bench.log(handle, since=since) for since in (0, 4, 10, 11, 1000)]
        assert pieces == [b"0123456789\n", b"456789\n", b"\n", b"", b""], f"`since` gives {pieces}"

    def test_following_gives_everything_and_ends_with_the_job(self, bench: Bench) -> None:
        handle = bench.submit(bench.job(SAY_LAST_WHEN_LET_GO, str(bench.gate)))
        seen, first_at = b"", None
        for piece in bench.cluster().logs(handle, follow=True):
            seen += piece
            first_at = first_at or bench.status(handle).state
            bench.gate.touch()
        assert seen == b"first\nlast", f"following gave {seen!r}"
        assert first_at is not None and not first_at.is_terminal, "following gave nothing before the job's end"
        assert bench.status(handle).state.is_terminal, "following ended before the job"

    def test_a_silent_job_has_an_empty_log(self, bench: Bench) -> None:
        _, log = bench.run("pass")
        assert log == b"", f"a silent job has a log: {log!r}"

    def test_a_node_that_is_not_there_has_no_log_in_words(self, bench: Bench) -> None:
        handle = bench.submit(bench.job("print('x')"))
        bench.wait(handle)
        with pytest.raises(TunewrightError, match="7"):
            list(bench.cluster().logs(handle, replica=7))

    # Stopping.

    @pytest.mark.parametrize("manner", ["polite", "deaf"])
    def test_stopping_ends_the_whole_tree(self, bench: Bench, manner: str) -> None:
        handle = bench.submit(bench.job(FAMILY, manner), **self.quick_stop(bench))
        for letter in (b"m", b"c", b"g"):
            bench.wait_for_log(handle, letter)
        bench.cluster().stop(handle)
        status = bench.wait(handle)
        assert status.state is JobState.STOPPED, f"a stopped job is {status}"
        assert status.cause is CauseKind.STOPPED, f"the cause of a stopped job is {status.cause}"
        after = _what_still_speaks(bench, handle)
        assert not after, f"after stop, these still live (main, child, grandchild): {after}"

    def test_the_end_of_the_main_process_ends_what_it_left(self, bench: Bench) -> None:
        script = FAMILY.replace('beat(b"m")', "time.sleep(0.5); sys.exit(3)")
        handle = bench.submit(bench.job(script), **self.quick_stop(bench))
        assert bench.wait(handle).exit_code == 3, "left-over processes change the exit code"
        after = _what_still_speaks(bench, handle)
        assert not after, f"after the job's end, these still live: {after}"

    def quick_stop(self, bench: Bench) -> dict[str, Any]:
        """Options that make the cluster impatient, where it has the usual one."""
        return {"stop_grace_seconds": 0.5} if "stop_grace_seconds" in options_type_of(bench.info).model_fields else {}

    def test_stopping_is_idempotent(self, bench: Bench) -> None:
        handle = bench.submit(bench.job(SLEEP))
        for _ in range(3):
            bench.cluster().stop(handle)
        assert bench.wait(handle).state is JobState.STOPPED, "a job stopped at once is not STOPPED"
        bench.cluster().stop(handle)
        assert bench.status(handle).state is JobState.STOPPED, "stopping a stopped job changes its state"

    def test_stopping_an_ended_job_changes_nothing(self, bench: Bench) -> None:
        handle = bench.submit(bench.job("pass"))
        before = bench.wait(handle)
        bench.cluster().stop(handle)
        assert bench.status(handle) == before, "stopping an ended job changes its status"

    # Handles.

    def test_an_unknown_job_is_not_found(self, bench: Bench) -> None:
        unknown = self.unknown_handle(bench)
        assert bench.status(unknown).state is JobState.NOT_FOUND, f"an unknown job is {bench.status(unknown)}"
        assert bench.log(unknown) == b"", "an unknown job has a log"
        bench.cluster().stop(unknown)

    def unknown_handle(self, bench: Bench) -> JobHandle:
        """A handle of no job. Override where `data` must have a form."""
        return JobHandle(cluster=self.name, native_id="4194999", data=str(bench.home / "no" / "such" / "job"))

    def test_many_jobs_are_asked_for_at_once(self, bench: Bench) -> None:
        jobs = [bench.job("import sys; sys.exit(int(sys.argv[1]))", str(code)) for code in (0, 3)]
        handles = [bench.submit(job) for job in jobs]
        for handle in handles:
            bench.wait(handle)
        unknown = self.unknown_handle(bench)
        answer = bench.cluster().status([*handles, unknown])
        states = [answer[handle].state for handle in (*handles, unknown)]
        assert states == [JobState.SUCCEEDED, JobState.FAILED, JobState.NOT_FOUND], f"asked together, they are {states}"
        assert len(answer) == 3, f"asked for 3 jobs, {len(answer)} were told"
        assert not bench.cluster().status([]), "asked for nothing, something was told"

    def test_several_jobs_run_at_the_same_time(self, bench: Bench) -> None:
        handles = [bench.submit(bench.job(SLEEP)) for _ in range(2)]
        for handle in handles:
            bench.wait_for_log(handle, b"up")
        states = [bench.status(handle).state for handle in handles]
        assert states == [JobState.RUNNING] * 2, f"two jobs at a time are {states}"

    def test_submitting_twice_finds_the_first_job(self, bench: Bench) -> None:
        job = bench.job("print('ran')")
        first, second = bench.submit(job, "key"), bench.submit(job, "key")
        bench.wait(first)
        third = bench.submit(job, "key")
        assert first == second == third, f"one key has several jobs: {first}, {second}, {third}"
        time.sleep(SILENCE_SECONDS)
        assert bench.log(first) == b"ran\n", f"submitted once, the job ran {bench.log(first).count(b'ran')} times"

    def test_another_key_is_another_job(self, bench: Bench) -> None:
        job = bench.job("pass")
        first, second = bench.submit(job, "key-1"), bench.submit(job, "key-2")
        assert first != second, "two keys have one job"

    def test_two_clients_with_one_key_make_one_job(self, bench: Bench) -> None:
        job = bench.job("print('ran')")
        plan = bench.plan(job).model_dump_json()
        clients = [bench.probe("submit", plan=plan, key="key") for _ in range(3)]
        answers = [client.communicate(timeout=self.patience_seconds) for client in clients]
        assert all(client.returncode == 0 for client in clients), f"a client failed: {[err for _, err in answers]}"
        handles = [bench.keep(out) for out, _ in answers]
        assert len(set(handles)) == 1, f"one key has several jobs: {handles}"
        bench.wait(handles[0])
        time.sleep(SILENCE_SECONDS)
        assert bench.log(handles[0]) == b"ran\n", "two clients with one key ran the job twice"

    def test_a_job_outlives_its_client(self, bench: Bench) -> None:
        job = bench.job("import time; print('up', flush=True); time.sleep(1); print('done')")
        handle = bench.keep(bench.ask("submit-and-die", plan=bench.plan(job).model_dump_json(), key="key"))
        status = bench.wait(handle)
        assert status.state is JobState.SUCCEEDED, f"the job of a killed client is {status}"
        assert bench.log(handle) == b"up\ndone\n", f"the job of a killed client wrote {bench.log(handle)!r}"

    # Retries.

    def test_a_failed_job_is_started_again(self, bench: Bench) -> None:
        self.need(bench, Capability.RETRIES)
        status, log = bench.run(FAIL_TWICE, max_retries=3)
        assert log == b"attempt 0\nattempt 1\nattempt 2\n", f"the attempts were {log!r}"
        assert status.state is JobState.SUCCEEDED, f"a job that succeeds at last is {status}"
        assert status.attempt == 2, f"succeeded at attempt 2, told as {status.attempt}"

    def test_retries_come_to_an_end(self, bench: Bench) -> None:
        self.need(bench, Capability.RETRIES)
        status, log = bench.run(FAIL_TWICE, max_retries=1)
        assert log == b"attempt 0\nattempt 1\n", f"with one retry the attempts were {log!r}"
        assert (status.state, status.exit_code) == (JobState.FAILED, 9), f"a job that fails to the end is {status}"

    def test_without_retries_a_job_runs_once(self, bench: Bench) -> None:
        _, log = bench.run(FAIL_TWICE)
        assert log == b"attempt 0\n", f"without retries the attempts were {log!r}"

    def test_a_stopped_job_is_not_started_again(self, bench: Bench) -> None:
        self.need(bench, Capability.RETRIES)
        handle = bench.submit(bench.job(SLEEP, max_retries=3))
        bench.wait_for_log(handle, b"up")
        bench.cluster().stop(handle)
        assert bench.wait(handle).state is JobState.STOPPED, "a stopped job with retries is not STOPPED"
        time.sleep(SILENCE_SECONDS)
        assert bench.log(handle) == b"up\n", "a stopped job was started again"

    # Several nodes.

    def test_each_node_is_told_its_rank_and_the_same_meeting_place(self, bench: Bench) -> None:
        self.need(bench, Capability.MULTINODE)
        handle = bench.submit(bench.job(PRINT_RENDEZVOUS, resources=Resources(nodes=3)))
        assert bench.wait(handle).state is JobState.SUCCEEDED, "a job of three nodes failed"
        told = [json.loads(bench.log(handle, replica=replica)) for replica in range(3)]
        assert [rank for rank, _, _ in told] == ["0", "1", "2"], f"replicas 0, 1, 2 have the ranks {told}"
        places = {(address, port) for _, address, port in told}
        assert len(places) == 1, f"the nodes were sent to several places: {places}"
        address, port = places.pop()
        assert address and (port or "").isdecimal(), f"the meeting place is no address and port: {address!r}, {port!r}"

    def test_the_nodes_meet_where_they_were_told_to(self, bench: Bench) -> None:
        self.need(bench, Capability.MULTINODE)
        handle = bench.submit(bench.job(MEET, resources=Resources(nodes=2)))
        ended = bench.wait(handle)
        logs = [bench.log(handle, replica=replica) for replica in range(2)]
        assert logs == [b"met node 1\n", b"met node 0\n"], f"the nodes did not meet: {logs}, {ended}"

    def test_a_node_that_fails_ends_the_job(self, bench: Bench) -> None:
        self.need(bench, Capability.MULTINODE)
        handle = bench.submit(bench.job(LAST_NODE_FAILS, resources=Resources(nodes=2)), **self.quick_stop(bench))
        ended = bench.wait(handle)
        assert (ended.state, ended.exit_code) == (JobState.FAILED, 7), f"a job whose node 1 ended with 7 is {ended}"

    def test_one_node_is_told_of_no_others(self, bench: Bench) -> None:
        assert bench.report(PRINT_RENDEZVOUS) == [None, None, None], "a job of one node is told to meet others"


def _first_difference(given: Sequence[str], arrived: Sequence[str]) -> str:
    for number, (one, other) in enumerate(zip(given, arrived, strict=False)):
        if one != other:
            return f"number {number}, {one!r}, arrived as {other!r}"
    return f"{len(given)} were given, {len(arrived)} arrived"


def _forms(value: str) -> set[str]:
    """How a value would look in a text: as it is, in JSON or YAML, in base64."""
    return {value, json.dumps(value)[1:-1], base64.b64encode(value.encode()).decode()}


def _what_still_speaks(bench: Bench, handle: JobHandle) -> list[str]:
    length = len(bench.log(handle))
    time.sleep(SILENCE_SECONDS)
    return sorted(set(bench.log(handle, since=length).decode()))
