"""The start program, run as a node runs it: by its text, with what Beaker gives it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tunewright.clusters.beaker.encoding import carried, is_plain
from tunewright.clusters.beaker.plan import START_PROGRAM

PRINT = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]))"
DEAF_TO_NOTHING = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print("up", flush=True)
time.sleep(60)
"""


def start(
    run_dir: Path, *command: str, nodes: int = 1, beaker: dict[str, str] | None = None, **variables: str
) -> subprocess.Popen[bytes]:
    """A node, started as the plan says."""
    encoded = [name for name, value in variables.items() if not is_plain(value)]
    settings: dict[str, Any] = {"run_dir": str(run_dir), "nodes": nodes, "encoded": encoded, "port": "20001"}
    environment = {"PATH": os.environ["PATH"], **{name: carried(value) for name, value in variables.items()}}
    return subprocess.Popen(
        [sys.executable, "-I", "-c", START_PROGRAM, carried(json.dumps(settings)), *map(carried, command)],
        env={**environment, "BEAKER_WORKLOAD_ID": "exp", "BEAKER_JOB_ID": "job-1", **(beaker or {})},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run(run_dir: Path, *command: str, **given: Any) -> tuple[int, bytes, str]:
    """Exit code, log, complaints of a node."""
    with start(run_dir, *command, **given) as node:
        _, complaints = node.communicate(timeout=50)
    rank = (given.get("beaker") or {}).get("BEAKER_REPLICA_RANK", "0")
    log = run_dir / "logs" / f"replica-{rank}.log"
    return node.returncode, log.read_bytes() if log.exists() else b"", complaints.decode()


def test_bytes_arrive_and_nothing_is_added_but_what_is_promised(tmp_path: Path) -> None:
    arguments, value = ("", "a b", "$x", "x\ny", "é\x01", "base64:eA=="), 'it\'s\n$HOME "é"'
    code, log, _ = run(tmp_path, sys.executable, "-I", "-c", PRINT, *arguments, MINE=value, PLAIN="1")
    assert code == 0
    told, environment, directory = json.loads(log)
    assert told == list(arguments)
    assert directory == str(tmp_path)
    environment.pop("LC_CTYPE", None)  # the command is Python too, which adds it to its own
    assert environment == {
        "PATH": os.environ["PATH"], "MINE": value, "PLAIN": "1", "TUNEWRIGHT_ATTEMPT": "0",
        "BEAKER_WORKLOAD_ID": "exp", "BEAKER_JOB_ID": "job-1",
    }  # fmt: skip


def test_a_node_of_several_is_told_its_rank_and_the_leader(tmp_path: Path) -> None:
    beaker = {"BEAKER_REPLICA_RANK": "1", "BEAKER_LEADER_REPLICA_HOSTNAME": "host-a"}
    _, log, _ = run(tmp_path, sys.executable, "-I", "-c", PRINT, nodes=2, beaker=beaker)
    environment = json.loads(log)[1]
    told = [environment[f"TUNEWRIGHT_{name}"] for name in ("NODE_RANK", "MASTER_ADDRESS", "MASTER_PORT")]
    assert told == ["1", "host-a", "20001"]


def test_attempts_are_counted_by_beakers_jobs_in_the_runs_directory(tmp_path: Path) -> None:
    code = "import os; print(os.environ['TUNEWRIGHT_ATTEMPT'])"
    for job in ("job-1", "job-2", "job-2", "job-3"):
        run(tmp_path, sys.executable, "-I", "-c", code, beaker={"BEAKER_JOB_ID": job})
    assert (tmp_path / "logs" / "replica-0.log").read_bytes() == b"0\n1\n1\n2\n"
    run(tmp_path, sys.executable, "-I", "-c", code, beaker={"BEAKER_WORKLOAD_ID": "another"})
    assert (tmp_path / "logs" / "replica-0.log").read_bytes().endswith(b"2\n0\n")


def test_exit_codes_and_signals_are_told(tmp_path: Path) -> None:
    assert run(tmp_path, sys.executable, "-I", "-c", "raise SystemExit(42)")[0] == 42
    assert run(tmp_path, sys.executable, "-I", "-c", "import os; os.kill(os.getpid(), 9)")[0] == 137


def test_the_log_is_shown_on_beakers_page_and_kept_as_it_was_written(tmp_path: Path) -> None:
    data = bytes(range(256)) + b"no newline"
    code = f"import os; os.write(1, {data!r}); os.write(2, b'two')"
    with start(tmp_path, sys.executable, "-I", "-c", code) as node:
        page, _ = node.communicate(timeout=50)
    assert page == (tmp_path / "logs" / "replica-0.log").read_bytes() == data + b"two"


def test_a_second_attempt_shows_only_its_own_part(tmp_path: Path) -> None:
    run(tmp_path, "printf", "first")
    with start(tmp_path, "printf", "second", beaker={"BEAKER_JOB_ID": "job-2"}) as node:
        page, _ = node.communicate(timeout=50)
    assert page == b"second"
    assert (tmp_path / "logs" / "replica-0.log").read_bytes() == b"firstsecond"


def test_a_signal_reaches_the_command_which_decides(tmp_path: Path) -> None:
    with start(tmp_path, sys.executable, "-I", "-c", DEAF_TO_NOTHING) as node:
        log = tmp_path / "logs" / "replica-0.log"
        deadline = time.monotonic() + 50
        while not (log.exists() and log.read_bytes()) and time.monotonic() < deadline:
            time.sleep(0.02)
        node.send_signal(signal.SIGTERM)
        node.communicate(timeout=50)
    assert node.returncode == 75


def test_a_program_that_is_not_there_is_127_with_a_note(tmp_path: Path) -> None:
    code, _, complaints = run(tmp_path, "no-such-program", "x")
    assert code == 127
    assert "`no-such-program` cannot be started" in complaints
    note = json.loads((tmp_path / "beaker" / "exp" / "job-1.json").read_text())
    assert note["exit_code"] == 127
    assert "no-such-program" in note["complaint"]


def test_a_run_directory_that_the_node_does_not_see_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, complaints = run(tmp_path / "file" / "run", "true")
    assert code == 78
    assert "on storage that it sees?" in complaints


def test_the_parent_does_not_wait_for_what_the_command_left_behind(tmp_path: Path) -> None:
    code = "import os, time\nif os.fork() == 0: time.sleep(20)\nelse: print('done', flush=True)"
    begun = time.monotonic()
    with start(tmp_path, sys.executable, "-I", "-c", code) as node:
        assert node.wait(timeout=15) == 0
    assert time.monotonic() - begun < 15
