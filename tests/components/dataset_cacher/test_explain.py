"""What makes two keys differ, in words."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from components.dataset_cacher.workbench import Workbench, conversation
from tunewright.dataset_cacher.explaining import explain_keys

SHA_A, SHA_B = "a" * 64, "b" * 64
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
KEY: dict[str, Any] = {
    "sources": [{"files": [{"sha256": SHA_A, "kind": "jsonl"}], "fraction": 1.0, "rows": None}],
    "seed": 17,
    "chat_template": {"name": "own", "source": TEMPLATE},
    "max_length_tokens": 128,
    "libraries": {"tokenizers": "0.23.3"},
}


def changed(*path: Any, to: Any) -> dict[str, Any]:
    key = copy.deepcopy(KEY)
    inner: Any = key
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = to
    return key


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (KEY, []),
        (changed("seed", to=18), ["seed: 17 / 18"]),
        (changed("max_length_tokens", to=64), ["dataset.max_length_tokens: 128 / 64"]),
        (changed("libraries", "tokenizers", to="0.23.4"), ["libraries.tokenizers: 0.23.3 / 0.23.4"]),
        (
            changed("sources", 0, "files", 0, "sha256", to=SHA_B),
            ["dataset.mix[0].source: content of file 1 differs (sha256 aaaaaaaaaaaa / bbbbbbbbbbbb)"],
        ),
        (changed("sources", 0, "files", 0, "kind", to="json"), ["dataset.mix[0].source: kind of file 1: jsonl / json"]),
        (changed("sources", 0, "rows", to=5), ["dataset.mix[0].rows: null / 5"]),
        (changed("sources", 0, "fraction", to=True), ["dataset.mix[0].fraction: 1.0 / true"]),
        (
            changed("chat_template", "source", to=TEMPLATE.replace("message in", "message  in")),
            ["chat_template.source: differs at character 16: ...'for message in messages' / "
             "...'for message  in message'..."],
        ),
        (
            changed("chat_template", "source", to=TEMPLATE + "\n"),
            ["chat_template.source: differs at character 66: its end / ..."],
        ),
        (changed("sources", to=[*KEY["sources"], {}]), ["dataset.mix: 1 item / 2 items"]),
        (changed("mystery", to=SHA_A), [f"mystery: only in the other: {SHA_A}"]),
    ],
)  # fmt: skip
def test_each_field_is_named_as_users_write_it(other: dict[str, Any], words: list[str]) -> None:
    found = [str(one) for one in explain_keys(KEY, other)]
    assert len(found) == len(words)
    for said, expected in zip(found, words, strict=True):
        assert said == expected or expected.split("...")[0] in said


def test_files_in_another_order_are_said_to_be_so() -> None:
    first = [{"sha256": SHA_A, "kind": "jsonl"}, {"sha256": SHA_B, "kind": "jsonl"}]
    (found,) = explain_keys(
        changed("sources", 0, "files", to=first), changed("sources", 0, "files", to=[*reversed(first)])
    )
    assert str(found) == "dataset.mix[0].source: the same files in another order"


def test_what_explains_says_the_same_the_other_way_round() -> None:
    for other in (changed("seed", to=18), changed("mystery", to=1), changed("sources", to=[])):
        there, back = explain_keys(KEY, other), explain_keys(other, KEY)
        assert [(one.field, one.first, one.other) for one in there] == [
            (one.field, one.other, one.first) for one in back
        ]


def test_rewriting_an_answer_moving_the_file_and_changing_the_template_are_told_apart(bench: Workbench) -> None:
    source = bench.write("rows.jsonl", [conversation("a", "b"), conversation("c", "d")])
    bench.experiment(['source = "rows.jsonl"'])
    digest = json.loads(bench.run("prepare", "experiment.toml", "--json").stdout)["digest"]

    source.rename(bench.project / "moved.jsonl")
    moved = ["--set", "dataset.mix.0.source=moved.jsonl"]
    said = bench.run_anew("explain", digest[:8], "experiment.toml", *moved).stdout
    assert f"the same digest: {digest}" in said and "where files lie" in said

    bench.write("moved.jsonl", [conversation("a", "b"), conversation("c", "e")])
    said = bench.run("explain", digest[:8], "experiment.toml", *moved).stdout
    assert "dataset.mix[0].source: content of file 1 differs (sha256 " in said and said.count("\n") == 2

    bench.write("rows.jsonl", [conversation("a", "b"), conversation("c", "d")])
    (bench.project / "key.json").write_text(bench.run("key", "experiment.toml", "--json").stdout)
    document = json.loads(
        bench.run("explain", "key.json", "experiment.toml", "--set", "model.chat_template=chatml", "--json").stdout
    )
    assert document["first"] == digest and document["same"] is False
    fields = [one["field"] for one in document["differences"]]
    assert fields == ["chat_template.name", "chat_template.source"]
    assert "differs at character" in document["differences"][1]["message"]


def test_a_side_may_be_a_file_of_a_run_or_of_a_cache(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("a", "b")])
    first = bench.provide({"source": "rows.jsonl"})
    other = bench.provide({"source": "rows.jsonl"}, seed=18)
    run = bench.cache_root.parent / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "dataset.json").write_text(json.dumps(first.dataset.to_document()))
    manifest = str(Path(other.dataset.path) / "manifest.json")
    for side in (str(run / "dataset.json"), str(run), "mine", first.dataset.path, first.dataset.digest):
        assert "seed: 17 / 18" in bench.run("explain", side, manifest).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["explain", "abcdef12", "abcdef34"], 66, "no such cache"),
        (["explain", "no-such-run", "abcdef34"], 66, "is no digest, no experiment file"),
        (["explain", "no.toml", "abcdef34"], 66, "no such experiment file"),
        (["explain", "odd.json", "odd.json"], 64, "names no dataset"),
        (["explain", "abcdef12", "abcdef34", "--set", "seed=1"], 64, "neither of the two"),
    ],
)
def test_what_cannot_be_explained_is_said(arguments: list[str], code: int, words: str, bench: Workbench) -> None:
    (bench.project / "odd.json").write_text("[]")
    assert words in bench.run(*arguments, expect=code).stderr
