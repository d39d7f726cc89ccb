"""Runner `process` by itself: what depends on rights, and on what dies."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from emulators.beaker.experiments import wait_for
from tunewright.beaker_emulator import processes
from tunewright.beaker_emulator.launches import Launch, Mounted, Phase, Report
from tunewright.beaker_emulator.log_file import LogReader
from tunewright.beaker_emulator.processes import ProcessRunner
from tunewright.beaker_emulator.quantities import duration_ns, size_bytes

pytestmark = pytest.mark.timeout(120)


def _launch(job_id: str, script: str, *mounts: Mounted) -> Launch:
    return Launch(job_id, "none", ("sh", "-c", script), (), {}, mounts, None, None, None, False)


def _end(runner: ProcessRunner, job_id: str) -> Report:
    def found() -> Report | None:
        report = runner.report(job_id)
        return report if report.phase is Phase.ENDED else None

    return wait_for(found, "the job ends")


def test_without_the_right_to_mount_mounts_are_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "can_mount", lambda: False)
    source, target = tmp_path / "source", tmp_path / "a" / "target"
    source.mkdir()
    (source / "file").write_text("seen\n")
    runner = ProcessRunner(tmp_path / "jobs")
    runner.start(_launch("one", f"cat {target}/file; sleep 0.5", Mounted(source, str(target), False)))
    runner.start(_launch("other", "true", Mounted(tmp_path, str(target), False)))
    assert f"cannot mount {target}" in _end(runner, "other").problem
    assert _end(runner, "one").exit_code == 0
    assert [line.text for line in LogReader(runner.log_path("one")).lines()] == [b"seen"]
    assert not target.is_symlink()


def test_a_keeper_that_dies_is_a_failure_with_words(tmp_path: Path) -> None:
    runner = ProcessRunner(tmp_path / "jobs")
    runner.start(_launch("one", "echo $$; exec sleep 3"))
    wait_for(lambda: runner.report("one").phase is Phase.RUNNING, "the job runs")
    os.kill(int((tmp_path / "jobs" / "one" / "keeper.pid").read_text().split()[0]), signal.SIGKILL)
    assert "its keeper is gone" in _end(runner, "one").problem


def test_closing_kills_what_runs(tmp_path: Path) -> None:
    runner = ProcessRunner(tmp_path / "jobs")
    runner.start(_launch("one", "trap '' TERM; sleep 300"))
    wait_for(lambda: runner.report("one").phase is Phase.RUNNING, "the job runs")
    runner.close()
    assert runner.report("one").exit_code == 137


@pytest.mark.parametrize(
    ("text", "number"), [("10GiB", 10 << 30), ("512 MB", 512_000_000), ("1.5g", 1_500_000_000), ("7", 7)]
)
def test_sizes_are_read(text: str, number: int) -> None:
    assert size_bytes(text) == number


@pytest.mark.parametrize(
    ("text", "number"), [("1h30m", 5400 * 10**9), ("90s", 90 * 10**9), (5, 5), ("1.5ms", 1_500_000)]
)
def test_durations_are_read(text: str | int, number: int) -> None:
    assert duration_ns(text) == number


@pytest.mark.parametrize("text", ["", "10 m", "h1", "-5s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        duration_ns(text)
