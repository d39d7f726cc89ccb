"""A hit that is answered from a note says what the usual way says, and is not given where anything changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from components.dataset_cacher.workbench import Workbench, conversation
from tunewright.contracts.experiment_file import load_experiment
from tunewright.dataset_cacher import quick_hits
from tunewright.dataset_cacher.commands.prepare import provide_experiment
from tunewright.dataset_cacher.quick_hits import answer, remember
from tunewright.dataset_cacher.watching import watched_of

LONG_AGO = 1_700_000_000

Ask = Callable[..., int | None]


@pytest.fixture
def ask(bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Asks for a dataset that was found before, as a package would."""
    monkeypatch.setattr(quick_hits, "_is_package", lambda: True)
    monkeypatch.setattr(quick_hits, "_SETTLED_NANOSECONDS", -(10**18))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(bench.cache_root.parent))
    monkeypatch.chdir(bench.project)
    (bench.project / ".git").mkdir()
    for name in ("a", "b"):
        bench.write(f"rows/{name}.jsonl", [conversation(name, "it is")])
    bench.experiment(['source = "rows"'])
    loaded = load_experiment(bench.project / "experiment.toml")
    provide_experiment(loaded, None, plan_only=False)
    found = provide_experiment(loaded, None, plan_only=False)
    assert found.is_hit and found.manifest is not None
    watched = watched_of(loaded, found.inputs, found.manifest, found.dataset.path)
    assert watched is not None
    for options in ([], ["--json"]):
        remember(["prepare", "experiment.toml", *options], {**found.dataset.to_document(), "hit": True}, watched)
    return lambda *options: answer(["prepare", "experiment.toml", *options])


def test_it_says_what_the_usual_way_says(ask: Ask, bench: Workbench, capsys: pytest.CaptureFixture[str]) -> None:
    usual = json.loads(bench.run("prepare", "experiment.toml", "--json").stdout)
    assert ask("--json") == 0
    quick = json.loads(capsys.readouterr().out)
    assert {**quick, "seconds": 0} == {**usual, "seconds": 0}
    assert ask() == 0
    told = capsys.readouterr()
    assert told.out == usual["digest"] + "\n"
    assert told.err.startswith("found in 0.0 s: 2 rows, ") and told.err.endswith(f"; {usual['path']}\n")


def test_it_counts_as_a_use(ask: Ask, bench: Workbench) -> None:
    cache = next(path for path in bench.cache_root.iterdir() if len(path.name) == 64)
    os.utime(cache, (LONG_AGO, LONG_AGO))
    ask()
    assert cache.stat().st_mtime > LONG_AGO


def rewrite(path: Path) -> None:
    """Other bytes of the same size, with the times of before."""
    stat = path.stat()
    data = path.read_bytes()
    path.write_bytes(data.replace(b"it is", b"it was"[:5], 1) if b"it is" in data else data[::-1])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


CHANGES: dict[str, Callable[[Workbench], object]] = {
    "an answer": lambda bench: rewrite(bench.project / "rows/a.jsonl"),
    "the experiment": lambda bench: rewrite(bench.project / "experiment.toml"),
    "a new source": lambda bench: bench.write("rows/c.jsonl", [conversation("c", "it is")]),
    "a new directory of the source": lambda bench: bench.write("rows/more/c.jsonl", [conversation("c", "it is")]),
    "a source less": lambda bench: (bench.project / "rows/b.jsonl").unlink(),
    "another root of the project": lambda bench: (bench.project / ".git").rmdir(),
    "a shard that is gone": lambda bench: next(bench.cache_root.glob("*/tokens-00000.arrow")).unlink(),
    "a shard that is cut": lambda bench: os.truncate(next(bench.cache_root.glob("*/tokens-00000.arrow")), 8),
    "a cache that is gone": lambda bench: next(bench.cache_root.glob("*/manifest.json")).parent.rename(
        bench.project / "x"
    ),
}


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_whatever_changes_it_is_asked_the_usual_way(change: str, ask: Ask, bench: Workbench) -> None:
    assert ask() == 0
    CHANGES[change](bench)
    assert ask() is None


def test_a_tokenizer_that_gets_a_template_is_a_change(ask: Ask, bench: Workbench) -> None:
    template = bench.model / "chat_template.jinja"
    template.write_text("{{ messages }}")
    try:
        assert ask() is None
    finally:
        template.unlink()


def test_other_words_another_place_and_other_variables_are_other_questions(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert ask("--set", "seed=3") is None
    assert ask("--paranoid") is None
    assert answer(["key", "experiment.toml"]) is None
    monkeypatch.setenv("TUNEWRIGHT_CACHE_ROOT", str(tmp_path))
    assert ask() is None
    monkeypatch.delenv("TUNEWRIGHT_CACHE_ROOT")
    assert ask() == 0
    monkeypatch.chdir(tmp_path)
    assert ask() is None


def test_a_damaged_note_costs_only_the_usual_way(ask: Ask, tmp_path: Path) -> None:
    for note in (tmp_path / "caches/tunewright/dataset-hits").iterdir():
        note.write_text("{")
    assert ask() is None


def test_what_changed_just_now_is_not_written_down(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick_hits, "_SETTLED_NANOSECONDS", 10**18)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "others"))
    remember(["prepare", "experiment.toml"], {}, quick_hits.watch([str(Path("experiment.toml").absolute())]))
    assert ask() is None


def test_code_that_is_no_package_writes_nothing_down(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    bench.write("rows.jsonl", [conversation("a", "b")])
    bench.experiment(['source = "rows.jsonl"'])
    for _ in range(2):
        bench.run("prepare", "experiment.toml")
    assert not (tmp_path / "caches/tunewright/dataset-hits").exists()
