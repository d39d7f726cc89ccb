"""Kill -9 at any moment, and many at once: the next one ends with the same bytes, and the work is done once."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from components.dataset_cacher.workbench import Workbench, bytes_below, conversation
from tunewright.contracts.datasets import MANIFEST_FILE, verify_cache

KILLS = 20
ROWS = 400

# Each preparer is forked from a process that has imported everything: what is killed is the work, not Python's start.
_PROGRAM = """
import json, os, random, signal, sys, time
from tunewright.contracts.datasets import DatasetRequest
from tunewright.dataset_cacher.reading import lines
from tunewright.dataset_cacher.preparation import preparing, shards
from tunewright.dataset_cacher.provide import provide_dataset

lines.PART_BYTES = 40 << 10
request = DatasetRequest.model_validate_json(sys.argv[1])

def start(root):
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        provide_dataset(request, root)
        status = 0
    finally:
        os._exit(status)

def num_parts(root):
    names = os.listdir(root) if os.path.isdir(root) else []
    try:
        return sum(len(os.listdir(os.path.join(root, name))) for name in names if name.endswith(".work"))
    except FileNotFoundError:  # it is done, and removes them
        return 0

def has_ended(pid):
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

started = time.monotonic()
assert os.waitpid(start(sys.argv[2]), 0)[1] == 0
seconds = time.monotonic() - started
for seed, root in enumerate(sys.argv[3:]):
    pid = start(root)
    if seed:
        time.sleep(random.Random(seed).uniform(0.0, 1.05) * seconds)
    else:  # at a moment that a busy machine does not shift: with a part done
        while not num_parts(root) and not has_ended(pid):
            time.sleep(0.0002)
    os.kill(pid, signal.SIGKILL)
    killed = os.waitpid(pid, 0)[1] == signal.SIGKILL
    print(json.dumps({"killed": killed, "parts": num_parts(root)}), flush=True)
    assert os.waitpid(start(root), 0)[1] == 0
"""


@pytest.mark.timeout(180)
def test_after_a_kill_at_any_moment_the_next_one_ends_with_the_same_bytes(bench: Workbench, tmp_path: Path) -> None:
    bench.write("rows.jsonl", [conversation("why? " * 9, f"because of {number} " * 9) for number in range(ROWS)])
    request = bench.request({"source": "rows.jsonl"}).model_dump_json()
    roots = [str(tmp_path / f"root-{number}") for number in range(KILLS)]
    command = [sys.executable, "-c", _PROGRAM, request, str(tmp_path / "undisturbed"), *roots]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=170)
    assert done.returncode == 0, done.stderr
    (expected,) = (path.parent for path in (tmp_path / "undisturbed").glob(f"*/{MANIFEST_FILE}"))
    whole = bytes_below(expected)
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    assert sum(kill["killed"] for kill in kills) >= KILLS // 2, "most ended before they were killed"
    assert any(kill["parts"] for kill in kills), "none had finished a part"
    for root in map(Path, roots):
        found = bytes_below(root / expected.name)
        assert [name for name in {**whole, **found} if whole.get(name) != found.get(name)] == []
        assert [path.name for path in root.iterdir() if path.name.endswith((".tmp", ".work"))] == []
        verify_cache(root / expected.name)


@pytest.mark.timeout(120)
def test_eight_preparers_at_once_do_the_work_once(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("why? " * 20, f"because of {number} " * 20) for number in range(2000)])
    bench.experiment(['source = "rows.jsonl"'])
    processes = [bench.start("prepare", "experiment.toml", "--json") for _ in range(8)]
    outputs = [process.communicate(timeout=100) for process in processes]
    documents = [json.loads(out) for out, _ in outputs]
    assert sorted(document["hit"] for document in documents) == [False] + [True] * 7
    assert len({document["digest"] for document in documents}) == 1
    maker = next(process for process, one in zip(processes, documents, strict=True) if not one["hit"])
    told = [line for _, err in outputs for line in err.splitlines() if "another process prepares it" in line]
    assert any(f"process {maker.pid}, since" in line for line in told)
    # Who comes last may meet one that only looks: it holds the lock for a moment to find what was made.
    named = {int(re.search(r"process (\d+), since", line)[1]) for line in told}  # type: ignore[index]
    assert named <= {process.pid for process in processes}
