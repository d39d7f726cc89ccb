"""Several processes make what one makes; one that is killed is told, and nothing done is done again."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from components.dataset_cacher.workbench import Workbench, bytes_below, conversation
from tunewright.contracts.errors import InvalidDataset
from tunewright.dataset_cacher.preparation import executors
from tunewright.dataset_cacher.provide import Means, provide_dataset
from tunewright.dataset_cacher.reading import lines

ROWS = 600


@pytest.fixture
def parts(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    """A source in a few dozen parts."""
    monkeypatch.setattr(lines, "PART_BYTES", 4096)
    bench.write("rows.jsonl", [conversation(f"{n}? " * 9, f"because of {n} " * (n % 7)) for n in range(ROWS)])
    return bench


def prepare(bench: Workbench, root: Path, num_processes: int, **options: object) -> Path:
    source = {"source": "rows.jsonl", **options}
    provided = provide_dataset(bench.request(source), root, means=Means("local", num_processes))
    return Path(provided.dataset.path)


@pytest.mark.parametrize("options", [{}, {"fraction": 0.3}, {"fraction": 2.5}])
def test_the_number_of_processes_decides_no_byte(
    parts: Workbench, tmp_path: Path, capfd: pytest.CaptureFixture[str], options: dict[str, object]
) -> None:
    alone = prepare(parts, tmp_path / "alone", 1, **options)
    together = prepare(parts, tmp_path / "together", 3, **options)
    assert bytes_below(alone) == bytes_below(together)
    assert alone.name == together.name


def test_bad_rows_are_told_in_their_order_whatever_process_found_them(parts: Workbench, tmp_path: Path) -> None:
    path = parts.project / "rows.jsonl"
    written = path.read_text().splitlines()
    for line in (500, 20, 21, 300, 7, 400, 1):
        written[line] = "{}"
    path.write_text("\n".join(written) + "\n")
    with pytest.raises(InvalidDataset) as refused:
        prepare(parts, tmp_path / "root", 3)
    told = str(refused.value)
    assert "7 rows cannot be used; the first 5" in told
    assert [f"rows.jsonl:{line + 1}" in told for line in (1, 7, 20, 21, 300, 400, 500)] == [True] * 5 + [False] * 2


def test_processes_end_with_the_one_that_started_them(parts: Workbench) -> None:
    parts.write("rows.jsonl", [conversation(f"{n}? " * 40, f"because of {n} " * 40) for n in range(60_000)])
    parts.experiment(['source = "rows.jsonl"'])
    process = parts.start("prepare", "experiment.toml", "--processes", "2")
    children = wait_for_children(process.pid, 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 50
    while any(map(is_alive, children)):
        assert time.monotonic() < deadline, "they live on"
        time.sleep(0.02)


def test_a_process_that_is_killed_ends_the_preparation_with_a_word_and_what_is_done_is_kept(parts: Workbench) -> None:
    parts.write("rows.jsonl", [conversation(f"{n}? " * 40, f"because of {n} " * 40) for n in range(60_000)])
    parts.experiment(['source = "rows.jsonl"'])
    process = parts.start("prepare", "experiment.toml", "--processes", "2")
    os.kill(wait_for_children(process.pid, 2)[0], signal.SIGKILL)
    _, told = process.communicate(timeout=50)
    assert process.returncode == 69 and "a process that encodes was killed" in told and "Traceback" not in told


def test_few_parts_are_not_worth_another_process(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "_run_in_processes", None)  # not callable
    bench.write("rows.jsonl", [conversation("a", "b")])
    assert provide_dataset(bench.request({"source": "rows.jsonl"}), bench.cache_root, means=Means("local", 8))


def wait_for_children(parent: int, count: int) -> list[int]:
    deadline = time.monotonic() + 50
    while True:
        try:
            found = [int(one) for one in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
        except OSError:
            found = []
        if len(found) >= count:
            return found
        assert time.monotonic() < deadline, "no processes were started"
        time.sleep(0.005)


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
