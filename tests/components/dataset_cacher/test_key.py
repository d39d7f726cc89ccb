"""What changes the digest and what does not."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from components.dataset_cacher.workbench import Workbench, bytes_below, conversation
from tunewright.contracts.datasets import read_manifest
from tunewright.contracts.spec import digest_of
from tunewright.dataset_cacher.provide import provide_dataset


@pytest.fixture
def base(bench: Workbench) -> Workbench:
    bench.write("rows.jsonl", [conversation("a", f"answer {number}") for number in range(4)])
    return bench


SOURCE: dict[str, Any] = {"source": "rows.jsonl"}


def test_moving_and_touching_a_file_changes_nothing(base: Workbench) -> None:
    before = base.digest(SOURCE)
    (base.project / "elsewhere").mkdir()
    (base.project / "rows.jsonl").rename(base.project / "elsewhere" / "data.jsonl")
    os.utime(base.project / "elsewhere" / "data.jsonl")
    assert base.digest({"source": "elsewhere/data.jsonl"}) == before


def test_a_project_at_another_place_has_the_same_digest_and_bytes(base: Workbench, tmp_path: Path) -> None:
    shutil.copytree(base.project, tmp_path / "copy")
    shutil.copytree(base.model, tmp_path / "model")
    other = Workbench(tmp_path / "copy", tmp_path / "model", tmp_path / "other-root")
    first, second = base.provide(SOURCE), other.provide(SOURCE)
    assert first.dataset.digest == second.dataset.digest
    files = [bytes_below(Path(one.dataset.path)) for one in (first, second)]
    assert files[0] == files[1]
    assert sorted(files[0]) == [
        "manifest.json",
        "packing.arrow",
        "statistics.json",
        "tokenizer.json",
        "tokens-00000.arrow",
    ]


def test_one_answer_rewritten_with_the_same_size_and_times_changes_it(base: Workbench) -> None:
    path = base.project / "rows.jsonl"
    base.provide(SOURCE)
    before, stat = base.digest(SOURCE), path.stat()
    path.write_text(path.read_text().replace("answer 2", "answer 9"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    assert base.digest(SOURCE) != before


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ({"rows": 4}, {}),
        ({"fraction": 0.5}, {}),
        ({"train_on": "all"}, {}),
        ({"columns": {"messages": "conversation"}}, {}),
        ({"filters": [{"column": "lang", "equals": "en"}]}, {}),
        ({"system_prompt": "Be brief."}, {}),
        ({}, {"seed": 18}),
        ({}, {"shuffle": True}),
        ({}, {"max_length_tokens": 255}),
        ({}, {"template": "zephyr"}),
    ],
)
def test_whatever_decides_the_tokens_changes_it(
    source: dict[str, Any], options: dict[str, Any], base: Workbench
) -> None:
    assert base.digest({**SOURCE, **source}, **options) != base.digest(SOURCE)


def test_a_key_names_what_is_given_and_nothing_else(base: Workbench) -> None:
    plain = base.provide(SOURCE, plan_only=True).key["sources"][0]
    assert sorted(plain) == ["files", "format", "fraction", "rows", "train_on"]
    filters = [{"column": "lang", "is_in": ["en", "de"]}]
    given = base.provide({**SOURCE, "filters": filters}, plan_only=True).key["sources"][0]
    assert given == {**plain, "filters": filters}


def test_the_order_of_the_mix_changes_it_and_packing_does_not(base: Workbench) -> None:
    base.write("more.jsonl", [conversation("c", "d")])
    other = {"source": "more.jsonl"}
    assert base.digest(SOURCE, other) != base.digest(other, SOURCE)
    request = base.request(SOURCE)
    packed = request.model_copy(update={"dataset": request.dataset.model_copy(update={"packing": True})})
    assert provide_dataset(packed, base.cache_root).dataset.digest == base.digest(SOURCE)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("tokenizer.json", '"version"', ' "version"'),
        ("tokenizer_config.json", '"pad_token": "<pad>"', '"pad_token": "<s>"'),
        ("chat_template.jinja", "content", "content "),
    ],
)
def test_one_character_of_the_tokenizer_or_its_template_changes_it(
    file: str, old: str, new: str, base: Workbench, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(base.model, model)
    (model / "chat_template.jinja").write_text("{{ messages[0].content }}")
    bench = Workbench(base.project, model, base.cache_root)
    before = bench.digest(SOURCE, template="tokenizer")
    text = (model / file).read_text()
    assert old in text
    (model / file).write_text(text.replace(old, new, 1))
    assert bench.digest(SOURCE, template="tokenizer") != before


def test_the_key_holds_the_template_and_gives_the_digest(base: Workbench) -> None:
    provided = base.provide(SOURCE)
    manifest = read_manifest(Path(provided.dataset.path))
    assert manifest.key["chat_template"]["name"] == "tulu"
    assert "<|assistant|>" in manifest.key["chat_template"]["source"]
    assert digest_of(manifest.key) == manifest.digest == provided.dataset.digest
    assert (manifest.id_type, manifest.eos_token_id, manifest.pad_token_id) == ("uint16", 1, 2)
    assert "rows.jsonl" not in json.dumps(manifest.to_document())


def test_only_naming_a_dataset_writes_nothing(base: Workbench) -> None:
    answer = base.provide(SOURCE, plan_only=True)
    assert not base.cache_root.exists()
    assert answer.dataset.rows is None and answer.dataset.path == str(base.cache_root / answer.dataset.digest)


def test_digests_are_remembered_only_for_files_that_have_settled(base: Workbench) -> None:
    memory = base.cache_root / ".source-digests.json"
    path = base.project / "rows.jsonl"
    base.provide(SOURCE)
    assert not memory.exists() or str(path) not in memory.read_text()
    # A memory that lies is believed, which shows that it is used; the times in it are those of the file.
    stat = path.stat()
    signature = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    memory.write_text(json.dumps({str(path): [signature, "0" * 64]}))
    key = base.provide(SOURCE, plan_only=True).key
    assert key["sources"][0]["files"][0]["sha256"] == "0" * 64
    memory.write_text("{damaged")
    assert base.provide(SOURCE, plan_only=True).key["sources"][0]["files"][0]["sha256"] != "0" * 64
