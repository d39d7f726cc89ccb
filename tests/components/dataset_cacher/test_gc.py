"""What `gc` lets go: by age, by size, what was never whole; never what a run uses or a preparer is at."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from components.dataset_cacher.workbench import Workbench, conversation
from tunewright.contracts.errors import UsageError
from tunewright.dataset_cacher.storage.collecting import DAY_SECONDS, Limits, age_text, judge, parse_size
from tunewright.dataset_cacher.storage.store import CacheStore, Leftover, StoredCache
from tunewright.dataset_cacher.storage.uses import Use

NOW = 1_000_000_000.0


def stored(name: str, size: int, days: float, is_whole: bool = True) -> StoredCache:
    used_at = NOW - days * DAY_SECONDS
    return StoredCache(name, size, used_at, used_at, is_whole)


CACHES = [stored("old", 50, 40), stored("used", 30, 60), stored("new", 20, 1), stored("half", 5, 0, is_whole=False)]
USES: dict[str, tuple[Use, ...]] = {"used": (Use("run-1", is_finished=False),)}


def gone(limits: Limits, uses: dict[str, tuple[Use, ...]] | None = None, leftovers: tuple[Leftover, ...] = ()) -> Any:
    judged = judge([("cache", one) for one in CACHES], leftovers, USES if uses is None else uses, limits, NOW)
    return [one.digest for one in judged if one.goes]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits(), ["half"]),
        (Limits(older_than_seconds=30 * DAY_SECONDS), ["old", "half"]),
        (Limits(older_than_seconds=0.0), ["old", "new", "half"]),
        (Limits(max_bytes=100), ["half"]),
        (Limits(max_bytes=99), ["old", "half"]),
        (Limits(max_bytes=49), ["old", "new", "half"]),
        (Limits(max_bytes=0), ["old", "new", "half"]),
        (Limits(older_than_seconds=30 * DAY_SECONDS, max_bytes=50), ["old", "half"]),
    ],
)
def test_the_least_recently_used_goes_first_and_never_what_a_run_uses(limits: Limits, expected: list[str]) -> None:
    assert gone(limits) == expected


def test_what_a_finished_run_refers_to_goes_only_where_it_is_asked_for() -> None:
    uses: dict[str, tuple[Use, ...]] = {"old": (Use("done", is_finished=True),), **USES}
    assert gone(Limits(older_than_seconds=0.0), uses) == ["new", "half"]
    assert gone(Limits(older_than_seconds=0.0, keeps_finished=False), uses) == ["old", "new", "half"]


def test_finished_parts_are_kept_for_a_day_for_the_next_preparer() -> None:
    fresh, stale = Leftover("fresh", 1, NOW - 60, True), Leftover("stale", 1, NOW - 2 * DAY_SECONDS, True)
    torn = Leftover("torn", 1, NOW, False)
    assert gone(Limits(), {}, (fresh, stale, torn)) == ["half", "stale", "torn"]
    assert gone(Limits(older_than_seconds=1.0), {}, (fresh,))[-1] == "fresh"


@pytest.mark.parametrize(
    ("text", "size"),
    [("20000", 20000), ("500MB", 500_000_000), ("1.5 GiB", 3 << 29), ("2t", 2 * 10**12), ("0", 0), ("1kib", 1024)],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "many", "-1GB", "1XB", "1 2"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no size"):
        parse_size(text)


def test_ages_are_said_shortly() -> None:
    assert [age_text(seconds) for seconds in (0, 59, 60, 7200, 3 * DAY_SECONDS)] == [
        "0 s", "59 s", "1 min", "2 h", "3 days",
    ]  # fmt: skip


def age(path: str, days: float) -> None:
    when = time.time() - days * DAY_SECONDS
    os.utime(path, (when, when))
    os.utime(Path(path) / "manifest.json", (when, when))


def test_gc_removes_what_no_run_uses_and_a_hit_keeps_a_cache_young(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("a", "b")])
    old, hit, used, evaluated_on = (bench.provide({"source": "rows.jsonl"}, seed=seed).dataset for seed in range(1, 5))
    for one in (old, hit, used, evaluated_on):
        age(one.path, days=10)
    assert bench.provide({"source": "rows.jsonl"}, seed=2).is_hit
    run = bench.cache_root.parent / "runs" / "running"
    run.mkdir(parents=True)
    (run / "dataset.json").write_text(json.dumps(used.to_document()))
    (run / "evaluation_dataset.json").write_text(json.dumps(evaluated_on.to_document()))

    document = json.loads(bench.run_anew("gc", "--older-than", "5", "--dry-run", "--json").stdout)
    assert [one["digest"] for one in document["verdicts"] if one["goes"]] == [old.digest]
    assert document["dry_run"] is True and Path(old.path).is_dir()

    said = bench.run("gc", "--older-than", "5").stdout
    assert not Path(old.path).exists() and Path(hit.path).is_dir() and Path(used.path).is_dir()
    rows = [line.split() for line in said.splitlines()]
    assert ["gone", old.digest[:12], "cache"] in [row[:3] for row in rows] and "used by run running" in said
    (run / "provenance.json").write_text("{}")
    bench.run("gc", "--max-bytes", "0")
    assert Path(used.path).is_dir() and Path(evaluated_on.path).is_dir() and not Path(hit.path).exists()
    bench.run("gc", "--max-bytes", "0", "--finished-runs")
    assert [path.name for path in bench.cache_root.iterdir() if not path.name.startswith(".source-")] == []


def test_gc_leaves_a_preparer_alone_and_takes_what_a_dead_one_left(bench: Workbench) -> None:
    bench.cache_root.mkdir(parents=True)
    busy, dead = "a" * 64, "b" * 64
    for digest in (busy, dead):
        (bench.cache_root / f".{digest}.0badcafe.tmp").mkdir()
        (bench.cache_root / f".{digest}.0badcafe.tmp" / "tokens-00000.arrow").write_bytes(b"half")
        (bench.cache_root / f".{digest}.work").mkdir()
    with CacheStore.at(bench.cache_root).lock(busy, on_wait=print):
        document = json.loads(bench.run("gc", "--older-than", "0", "--json").stdout)
        assert sorted((one["digest"], one["kind"]) for one in document["verdicts"] if one["goes"]) == [
            (dead, "temporary"), (dead, "work"),
        ]  # fmt: skip
        assert {one["reason"] for one in document["verdicts"] if not one["goes"]} == {"a preparer is at it"}
        assert sorted(path.name for path in bench.cache_root.iterdir()) == [
            f".{busy}.0badcafe.tmp", f".{busy}.holder", f".{busy}.lock", f".{busy}.work",
        ]  # fmt: skip
    assert "freed" in bench.run("gc", "--older-than", "0").stderr
    assert list(bench.cache_root.iterdir()) == []


def test_list_tells_size_and_ages(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("a", "b")])
    made = bench.provide({"source": "rows.jsonl"}).dataset
    age(made.path, days=3)
    assert "3 days" in bench.run("list").stdout
    (listed,) = json.loads(bench.run("list", "--json").stdout)
    assert listed["used_at"] == listed["made_at"] and listed["bytes"] > 0
    assert bench.provide({"source": "rows.jsonl"}).is_hit
    (listed,) = json.loads(bench.run("list", "--json").stdout)
    assert listed["used_at"] > listed["made_at"]
