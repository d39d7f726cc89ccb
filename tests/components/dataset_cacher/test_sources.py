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
        ("rows.txt", InvalidDataset, ["dataset.mix[1].source", "`.txt`", ".jsonl, .json, .csv, .parquet, .arrow; "]),
        ("empty", InvalidDataset, ["dataset.mix[1].source", "no file that can be read"]),
        ("allenai/some-dataset", InvalidDataset, ["dataset.mix[1].revision", "no file here", "needs its commit"]),
        ("ftp://host/rows.jsonl", InvalidDataset, ["dataset.mix[1].source", "s3://", "gs://"]),
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


@pytest.mark.parametrize("key", [{"revision": "0" * 40}, {"config": "main"}, {"split": "train"}])
def test_keys_of_hub_datasets_are_refused_for_a_file(key: dict[str, str], bench: Workbench) -> None:
    bench.write("owner/rows", [])
    bench.write("rows.jsonl", [conversation("a", "b")])
    with pytest.raises(InvalidDataset, match=rf"dataset.mix\[0\].{next(iter(key))}: goes with a hub id"):
        bench.provide({"source": "rows.jsonl", **key})
    with pytest.raises(InvalidDataset, match=r"dataset.mix\[0\].revision: .*`owner/rows` lies here"):
        bench.provide({"source": "owner/rows", "revision": "0" * 40})


def test_a_split_of_a_directory_is_its_folder_or_files_of_that_name(bench: Workbench) -> None:
    for name in ("train-00001.jsonl", "train-00000.jsonl", "test.jsonl", "trainer.jsonl", "deep/train/x.jsonl"):
        bench.write(f"data/{name}", [conversation("name?", name)])
    assert bench.trained(bench.provide({"source": "data", "split": "test"})) == ["test.jsonl</s>"]
    assert bench.trained(bench.provide({"source": "data", "split": "train"})) == [
        "deep/train/x.jsonl</s>",
        "train-00000.jsonl</s>",
        "train-00001.jsonl</s>",
    ]
    with pytest.raises(InvalidDataset, match=r"dataset.mix\[0\].split: `data` has no folder or file called `valid`"):
        bench.provide({"source": "data", "split": "valid"})


def test_a_saved_dataset_is_read_in_the_order_that_it_was_saved_in(bench: Workbench) -> None:
    import datasets

    rows = [conversation("number?", str(number)) for number in range(30)]
    saved = datasets.Dataset.from_list(rows)
    saved.save_to_disk(str(bench.project / "saved"), num_shards=3)
    splits = datasets.DatasetDict({"train": saved, "test": saved.select([4, 2])})
    splits.save_to_disk(str(bench.project / "splits"))
    assert bench.trained(bench.provide({"source": "saved"})) == [f"{number}</s>" for number in range(30)]
    assert bench.digest({"source": "splits"}) == bench.digest({"source": "splits", "split": "train"})
    assert bench.trained(bench.provide({"source": "splits", "split": "test"})) == ["4</s>", "2</s>"]
    with pytest.raises(InvalidDataset, match=r"dataset.mix\[0\].split: .*no split `valid`\nhint: it has: test, train"):
        bench.provide({"source": "splits", "split": "valid"})
    # Saved datasets somewhere below a directory: what describes them is not taken for rows.
    assert len(bench.trained(bench.provide({"source": "."}))) == 62


def test_a_compressed_source_gives_the_same_tokens_as_the_plain_one(bench: Workbench) -> None:
    import zstandard

    plain = bench.write("rows.jsonl", [conversation("a", f"answer {number}") for number in range(20)])
    (bench.project / "rows.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(plain.read_bytes()))
    rows = [bench.rows(bench.provide({"source": name})) for name in ("rows.jsonl", "rows.jsonl.zst")]
    assert rows[0] == rows[1] and len(rows[0]) == 20


def test_an_unknown_format_and_an_unknown_template_list_what_there_is(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("a", "b")])
    with pytest.raises(UnknownPlugin, match=r"dataset.mix\[0\].format.*mesages.*alpaca, messages"):
        bench.provide({"source": "rows.jsonl", "format": "mesages"})
    with pytest.raises(UnknownPlugin, match=r"model.chat_template.*tullu.*chatml.*tulu, .*zephyr"):
        bench.provide({"source": "rows.jsonl"}, template="tullu")


def test_a_tokenizer_of_the_hub_that_is_not_here_is_said_without_a_network(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("a", "b")])
    request = bench.request({"source": "rows.jsonl"}, plan_only=True)
    request = request.model_copy(update={"tokenizer": "nobody/nothing", "tokenizer_revision": "0" * 40})
    with pytest.raises(Unavailable, match=r"model.name_or_path: the tokenizer of `nobody/nothing` at 0{40}"):
        provide_dataset(request, bench.cache_root)
