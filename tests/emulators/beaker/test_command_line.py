from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from beaker import Beaker

from emulators.beaker.experiments import Code, experiment, jobs_of, running_job, task, wait_for
from tunewright.beaker_emulator.starting import EmulatorFailed, RunningEmulator, running_emulator

pytestmark = pytest.mark.timeout(120)


def _emulator(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "tunewright.beaker_emulator.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def test_serve_prints_what_a_shell_can_take_over(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "tunewright.beaker_emulator.cli", "serve", "--state", str(tmp_path / "state")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        head, *exports = [process.stdout.readline() for _ in range(3)]
        script = "".join(exports) + 'cat "$BEAKER_CONFIG" "$GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"'
        told = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert head.startswith("Beaker emulator: REST at http://127.0.0.1:")
    assert "user_token: emulated-token" in told and "BEGIN CERTIFICATE" in told
    assert (tmp_path / "state").stat().st_mode & 0o77 == 0


def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys\n"
        "from tunewright.beaker_emulator.starting import running_emulator\n"
        "with running_emulator(pathlib.Path(sys.argv[1])) as running:\n"
        "    print(running.pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, env=environment, check=False
    )
    pid = int(done.stdout)

    def is_gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    wait_for(is_gone, "the emulator has ended")


def test_preempt_and_lose_node_are_commands(client: Beaker, emulator: RunningEmulator) -> None:
    workload = client.experiment.create(spec=experiment(task("sleep 300", min_runtime="1h", auto_resume=True)))
    first = running_job(client, workload)
    done = _emulator("preempt", "--state", str(emulator.state), first.id)
    assert (done.returncode, done.stdout) == (0, f"{first.id}\n")
    second = running_job(client, workload, number=1)
    node = client.node.get(second.assignment_details.node_id).hostname
    assert _emulator("lose-node", "--state", str(emulator.state), node).stdout == f"{second.id}\n"
    running_job(client, workload, number=2)
    assert _emulator("return-node", "--state", str(emulator.state), node).returncode == 0
    codes = [job.status.canceled_code for job in jobs_of(client, workload)]
    assert codes[:2] == [Code.CANCELATION_CODE_SYSTEM_PREEMPTION, Code.CANCELATION_CODE_NODE_UNAVAILABLE]
    client.workload.cancel(workload)


def test_mistakes_are_one_line_each(emulator: RunningEmulator, tmp_path: Path) -> None:
    done = _emulator("preempt", "--state", str(emulator.state), "none")
    assert (done.returncode, done.stderr) == (1, "Error: job 'none' not found\n")
    done = _emulator("preempt", "--state", str(tmp_path), "none")
    assert done.returncode == 1 and "no emulator answers" in done.stderr and "Traceback" not in done.stderr


def test_a_fleet_that_cannot_be_is_refused_with_its_place(tmp_path: Path) -> None:
    fleet = tmp_path / "fleet.json"
    fleet.write_text(json.dumps({"organization": "x", "users": [], "workspaces": [], "clusters": []}))
    with pytest.raises(EmulatorFailed, match="users"), running_emulator(tmp_path / "state", fleet):
        pass
