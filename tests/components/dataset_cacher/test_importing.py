"""A cache of open-instruct, written here by `datasets` as it does, becomes a cache of ours with the same rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.dataset_cacher.workbench import Workbench, bytes_below
from components.dataset_cacher.written_caches import rows_of, write_cache
from tunewright.contracts.datasets import DatasetManifest, verify_cache
from tunewright.contracts.errors import InvalidDataset, NotFound
from tunewright.contracts.spec import digest_of
from tunewright.dataset_cacher.cli import dataset_cacher
from tunewright.dataset_cacher.exchange.exporting import export_cache
from tunewright.dataset_cacher.exchange.open_instruct_cache import open_directory, read_imported
from tunewright.dataset_cacher.preparation import shards
from tunewright.dataset_cacher.views.batches import read_batches

Row = dict[str, Any]


def row(ids: list[int], trained: list[bool], source: str = "org/data") -> Row:
    labels = [one if is_trained else -100 for one, is_trained in zip(ids, trained, strict=True)]
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels, "dataset_source": source}


ROWS = [
    row([5, 6, 7, 1], [False, True, True, True]),
    row([8, 9], [True, False], "other"),
    row([5, 6, 7], [False, False, False]),
    row([9, 9, 9, 9, 1], [True, False, True, False, True], "other"),
]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def save(directory: Path, rows: list[Row], max_length_tokens: int | None = 64) -> Path:
    """What `LocalDatasetTransformationCache` leaves: `save_to_disk`, then `config.json` and the statistics."""
    import datasets

    types = {"input_ids": "int32", "attention_mask": "int8", "labels": "int64"}
    features = {name: datasets.Sequence(datasets.Value(type_name)) for name, type_name in types.items()}
    features = {name: feature for name, feature in features.items() if name in rows[0]}
    if "dataset_source" in rows[0]:
        features["dataset_source"] = datasets.Value("string")
    datasets.Dataset.from_list(rows, features=datasets.Features(features)).save_to_disk(str(directory))
    if max_length_tokens is not None:
        config = {
            "tokenizer_config": {"tokenizer_name_or_path": "some/model", "chat_template_name": "tulu"},
            "dataset_configs": [{"transform_fn_args": [{"max_seq_length": max_length_tokens}, {}]}],
            "config_hash": "0123456789",
        }
        (directory / "config.json").write_text(json.dumps(config))
        stats = [
            {"dataset_name": "org/data", "instances_filtered": 3},
            {"dataset_name": "other", "instances_filtered": 0},
        ]
        (directory / "dataset_statistics.json").write_text(json.dumps({"per_dataset_stats": stats}))
    return directory


def run(bench: Workbench, *arguments: str) -> str:
    """What a command prints, in this process."""
    result = CliRunner().invoke(
        dataset_cacher, [*arguments, "--cache-root", str(bench.cache_root)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def take_over(bench: Workbench, directory: Path, *options: str) -> tuple[Path, DatasetManifest]:
    answer = json.loads(run(bench, "import", str(directory), "--from", "open-instruct", "--json", *options))
    return Path(answer["path"]), verify_cache(Path(answer["path"]))


def rows_in(cache: Path, manifest: DatasetManifest) -> list[tuple[list[int], list[int]]]:
    found = []
    for batch in read_batches(cache, manifest):
        edges, labels = batch.edges.tolist(), batch.labels().tolist()
        found += [
            (batch.ids[start:end].tolist(), labels[start:end]) for start, end in zip(edges, edges[1:], strict=False)
        ]
    return found


def test_an_import_is_a_cache_with_the_same_rows(bench: Workbench, tmp_path: Path) -> None:
    directory = save(tmp_path / "cache", ROWS)
    cache, manifest = take_over(bench, directory, "--tokenizer", str(bench.model))
    assert rows_in(cache, manifest) == [(one["input_ids"], one["labels"]) for one in ROWS if any(
        label >= 0 for label in one["labels"])]  # fmt: skip
    assert cache.name == manifest.digest == digest_of(manifest.key)
    assert manifest.key["imported"]["format"] == "open-instruct" and manifest.key["max_length_tokens"] == 64
    assert manifest.dropped == {"filtered_by_open_instruct": 3, "no_trained_tokens": 1}
    assert [(source["name"], source["rows"], source["tokens"]) for source in manifest.sources] == [
        ("org/data", 1, 4), ("other", 2, 7),
    ]  # fmt: skip
    assert (manifest.id_type, manifest.eos_token_id, manifest.pad_token_id) == ("uint16", 1, 2)
    assert (cache / "tokenizer.json").read_bytes() == (bench.model / "tokenizer.json").read_bytes()


def test_an_import_is_listed_verified_shown_and_exported_like_any_other(bench: Workbench, tmp_path: Path) -> None:
    _, manifest = take_over(bench, save(tmp_path / "cache", ROWS), "--tokenizer", str(bench.model))
    digest = manifest.digest[:10]
    assert digest in run(bench, "list") and "open-instruct" in run(bench, "list")
    assert json.loads(run(bench, "verify", digest, "--json"))["whole"] is True
    assert "mix[1]" in run(bench, "stats", digest)
    run(bench, "stats", digest, "--html", str(tmp_path / "stats.html"))
    assert "mix[0] org/data" in (tmp_path / "stats.html").read_text()
    shown = json.loads(run(bench, "show", digest, "--row", "1", "--json"))
    assert (shown["input_ids"], shown["source"], shown["source_row"]) == ([8, 9], 1, 0)
    for export_format in ("jsonl", "parquet", "hf", "olmo"):
        run(bench, "export", digest, "--format", export_format, "--to", str(tmp_path / export_format))
    assert json.loads((tmp_path / "jsonl").read_text().splitlines()[0])["labels"] == [-100, 6, 7, 1]


def test_the_digest_is_of_the_files_and_not_of_their_place(bench: Workbench, tmp_path: Path) -> None:
    directory = save(tmp_path / "cache", ROWS)
    cache, manifest = take_over(bench, directory)
    before = bytes_below(cache)
    shutil.copytree(directory, tmp_path / "moved")
    shutil.rmtree(cache)
    again, _ = take_over(bench, tmp_path / "moved")
    assert again == cache and bytes_below(again) == before
    assert manifest.tokenizer is None and manifest.id_type == "uint8"
    run(bench, "export", manifest.digest, "--format", "jsonl", "--to", str(tmp_path / "jsonl"))
    assert json.loads((tmp_path / "jsonl").read_text().splitlines()[0])["input_ids"] == [5, 6, 7, 1]
    changed = save(tmp_path / "changed", [row([5, 6, 7, 2], [False, True, True, True]), *ROWS[1:]])
    assert take_over(bench, changed)[1].digest != manifest.digest
    assert take_over(bench, directory, "--max-length-tokens", "65")[1].digest != manifest.digest
    answer = run(bench, "import", str(directory), "--from", "open-instruct", "--json")
    assert json.loads(answer)["hit"] is True


def test_rows_are_the_same_however_many_are_read_at_once(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = save(tmp_path / "cache", ROWS * 5)
    whole, manifest = take_over(bench, directory)
    before = bytes_below(whole)
    expected = rows_in(whole, manifest)
    shutil.rmtree(whole)
    monkeypatch.setattr(shards, "BATCH_TOKENS", 7)
    cache, manifest = take_over(bench, directory)
    assert rows_in(cache, manifest) == expected
    assert len(list(read_imported(open_directory(directory)))) > 5
    assert bytes_below(cache)["statistics.json"] == before["statistics.json"]


def test_what_is_exported_for_hugging_face_comes_back_the_same(bench: Workbench, tmp_path: Path) -> None:
    texts = [[(f"question {number} ", False), (f"answer {number}</s>", True)] for number in range(20)]
    written = write_cache(bench, rows_of(bench, texts))
    export_cache(written.path, written.manifest, "hf", tmp_path / "hf")
    cache, manifest = take_over(bench, tmp_path / "hf", "--tokenizer", str(bench.model), "--max-length-tokens", "512")
    assert rows_in(cache, manifest) == [(one["input_ids"], one["labels"]) for one in written.expected()]
    assert bytes_below(cache)["packing.arrow"] == bytes_below(written.path)["packing.arrow"]
    assert manifest.digest != written.digest


@given(st.lists(st.lists(st.booleans(), max_size=12), min_size=1, max_size=12))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_spans_are_the_runs_of_trained_tokens_within_each_row(tmp_path: Path, masks: list[list[bool]]) -> None:
    directory = tmp_path / "cache"
    shutil.rmtree(directory, ignore_errors=True)
    save(directory, [row(list(range(3, 3 + len(mask))), mask) for mask in masks], None)
    (rows,) = read_imported(open_directory(directory))
    for number, mask in enumerate(masks):
        spans = rows.spans[rows.span_edges[number] : rows.span_edges[number + 1]].tolist()
        assert [any(start <= place < end for start, end in spans) for place in range(len(mask))] == mask
        assert all(end < following for (_, end), (following, _) in zip(spans, spans[1:], strict=False))


BAD_ROWS = [
    ({"input_ids": [5, 6], "labels": [-100, 7]}, r"row 2 has a label that is neither -100 nor its token's id"),
    ({"input_ids": [5, -6], "labels": [5, -100]}, r"row 2 has a negative token id"),
    ({"input_ids": [5, 6], "labels": [5]}, r"row 2 has another number of labels than of tokens"),
    ({"input_ids": [5] * 65, "labels": [5] * 65}, r"row 2 has 65 tokens, more than 64"),
    ({"input_ids": [5, 999], "labels": [5, 999]}, r"row 2 has the id 999, the tokenizer has 3\d\d"),
    ({"input_ids": [5, 6], "labels": [5, 6], "attention_mask": [1, 0]}, r"row 2 has an attention mask that leaves"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_ROWS)
def test_a_row_that_cannot_be_right_is_refused_by_its_number(
    bench: Workbench, tmp_path: Path, bad: Row, message: str
) -> None:
    with_mask = {"attention_mask": [1] * len(bad["input_ids"]), "dataset_source": "x", **bad}
    directory = save(tmp_path / "cache", [ROWS[0], ROWS[1], with_mask])
    with pytest.raises(InvalidDataset, match=message):
        take_over(bench, directory, "--tokenizer", str(bench.model))
    assert not [path for path in bench.cache_root.rglob("*.arrow")]


def test_a_directory_that_is_no_cache_is_refused_in_words(bench: Workbench, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no cache of open-instruct \(it has no state.json\)"):
        take_over(bench, tmp_path)
    preferences = [{"input_ids": [1], "chosen": [1]}]
    import datasets

    datasets.Dataset.from_list(preferences).save_to_disk(str(tmp_path / "preferences"))
    with pytest.raises(InvalidDataset, match=r"has no column labels; there are: input_ids, chosen"):
        take_over(bench, tmp_path / "preferences")
    datasets.Dataset.from_list([{"input_ids": [1], "labels": ["yes"]}]).save_to_disk(str(tmp_path / "texts"))
    with pytest.raises(
        InvalidDataset, match=r"the column `labels` must have lists of integers, has list<item: string>"
    ):
        take_over(bench, tmp_path / "texts")
    directory = save(tmp_path / "cache", ROWS)
    next(directory.glob("*.arrow")).unlink()
    with pytest.raises(InvalidDataset, match=r"not whole: .*data-00000-of-00001.arrow"):
        take_over(bench, directory)
    nothing = save(tmp_path / "nothing", [row([5, 6], [False, False])])
    with pytest.raises(InvalidDataset, match=r"no row is left to train on"):
        take_over(bench, nothing)
