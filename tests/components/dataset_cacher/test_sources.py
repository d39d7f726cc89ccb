"""Which files a source means, and what is said where it means none."""

from __future__ import annotations

import pytest

from components.dataset_cacher.workbench import Workbench, conversation, visible_below
from tunewright.contracts.errors import InvalidDataset, NotFound, TunewrightError, Unavailable, UnknownPlugin
from tunewright.dataset_cacher.provide import provide_dataset


def test_a_directory_and_a_glob_give_their_files_in_the_order_of_their_names(bench: Workbench) -> None:
    for name in ("b.jsonl", "a.jsonl", "deep/c.jsonl", ".hidden.jsonl"):
        bench.write(f"data/{name}", [conversation("name?", name)])
    (bench.project / "data" / "README.md").write_text("not a row")
    directory = bench.provide({"source": "data"})
    assert bench.trained(directory) == ["a.jsonl</s>", "b.jsonl</s>", "deep/c.jsonl</s>"]
    assert bench.trained(bench.provide({"source": "data/*.jsonl"})) == ["a.jsonl</s>", "b.jsonl</s>"]
    assert bench.trained(bench.provide({"source": "data/**/*.jsonl"})) == bench.trained(directory)


def test_the_index_of_a_row_counts_over_all_files_of_its_source(bench: Workbench) -> None:
    bench.write("data/a.jsonl", [conversation("1", "2")] * 2)
    bench.write("data/b.jsonl", [conversation("3", "4")])
    bench.write("other.jsonl", [conversation("5", "6")])
    provided = bench.provide({"source": "data"}, {"source": "other.jsonl"})
    assert bench.origins(provided) == [(0, 0), (0, 1), (0, 2), (1, 0)]


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("rowz.jsonl", NotFound, ["dataset.mix[1].source", "`rowz.jsonl`: no such file", "did you mean `rows.jsonl`"]),
        ("nowhere/rows.jsonl", NotFound, ["dataset.mix[1].source", "no directory"]),
        ("*.nothing", NotFound, ["dataset.mix[1].source", "no file matches"]),
        ("rows.txt", InvalidDataset, ["dataset.mix[1].source", "`.txt`", ".jsonl, .jsonl.gz, .json, .csv, .parquet"]),
        ("empty", InvalidDataset, ["dataset.mix[1].source", "no file that can be read"]),
        ("allenai/some-dataset", InvalidDataset, ["dataset.mix[1].source", "local files only", "hub"]),
        ("s3://bucket/rows.jsonl", InvalidDataset, ["dataset.mix[1].source", "local files only"]),
        ("nothing.jsonl", InvalidDataset, ["dataset.mix[1].source", "has no rows"]),
    ],
)
def test_a_source_that_cannot_be_used_is_named(
    source: str, error: type[TunewrightError], words: list[str], bench: Workbench
) -> None:
    bench.write("rows.jsonl", [conversation("a", "b")])
    bench.write("nothing.jsonl", [])
    (bench.project / "rows.txt").write_text("text")
    (bench.project / "empty").mkdir()
    with pytest.raises(error) as caught:
        bench.provide({"source": "rows.jsonl"}, {"source": source})
    assert [word for word in words if word not in str(caught.value)] == []
    assert not bench.cache_root.exists() or visible_below(bench.cache_root) == []


def test_a_revision_goes_with_a_hub_id_only(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("a", "b")])
    with pytest.raises(InvalidDataset, match=r"dataset.mix\[0\].revision"):
        bench.provide({"source": "rows.jsonl", "revision": "0" * 40})


def test_an_unknown_format_and_an_unknown_template_list_what_there_is(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("a", "b")])
    with pytest.raises(UnknownPlugin, match=r"dataset.mix\[0\].format.*mesages.*alpaca, messages"):
        bench.provide({"source": "rows.jsonl", "format": "mesages"})
    with pytest.raises(UnknownPlugin, match=r"model.chat_template.*tullu.*chatml, simple_chat, tulu, zephyr"):
        bench.provide({"source": "rows.jsonl"}, template="tullu")


def test_a_tokenizer_of_the_hub_that_is_not_here_is_said_without_a_network(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("a", "b")])
    request = bench.request({"source": "rows.jsonl"}, plan_only=True)
    request = request.model_copy(update={"tokenizer": "nobody/nothing", "tokenizer_revision": "0" * 40})
    with pytest.raises(Unavailable, match=r"model.name_or_path: the tokenizer of `nobody/nothing` at 0{40}"):
        provide_dataset(request, bench.cache_root)
