"""The command line as users run it: a process, its outputs, its exit code. Each command starts Python anew once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from components.dataset_cacher.workbench import Workbench, conversation

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def prepared(bench: Workbench) -> tuple[Workbench, dict[str, Any]]:
    """A prepared experiment and what `prepare --json` said."""
    bench.write("rows.jsonl", [conversation("why?", "so."), conversation("é?", "漢字 </s> 🎉")])
    bench.experiment(['source = "rows.jsonl"'])
    return bench, json.loads(bench.run("prepare", "experiment.toml", "--json").stdout)


def test_prepare_and_key_agree_and_key_alone_writes_nothing(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("why?", "so.")])
    bench.experiment(['source = "rows.jsonl"'])
    key = bench.run_anew("key", "experiment.toml").stdout.strip()
    assert not bench.cache_root.exists()
    prepared = bench.run_anew("prepare", "experiment.toml")
    assert prepared.stdout.strip() == key and "prepared in" in prepared.stderr
    assert "found in" in bench.run("prepare", "experiment.toml").stderr
    document = json.loads(bench.run("key", "experiment.toml", "--json").stdout)
    assert (document["digest"], document["prepared"]) == (key, True)
    assert document["key"]["max_length_tokens"] == 128
    other = bench.run("key", "experiment.toml", "--set", "dataset.max_length_tokens=64").stdout.strip()
    assert other != key


def test_each_stage_has_its_dataset_before_there_is_a_model_to_go_on_with(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("why?", "so.")])
    bench.write("others.jsonl", [conversation("how?", "thus.")])
    path = bench.experiment(['source = "rows.jsonl"'])
    key = bench.run("key", path.name).stdout.strip()
    with path.open("a") as file:
        file.write('[[stages]]\nname = "a"\n[[stages]]\nname = "b"\n[[stages.dataset.mix]]\nsource = "others.jsonl"\n')
    assert "--stage a" in bench.run("prepare", path.name, expect=64).stderr
    assert bench.run("prepare", path.name, "--stage", "a").stdout.strip() == key
    assert bench.run("prepare", path.name, "--stage", "b").stdout.strip() not in ("", key)
    assert "has the stages `a`, `b`" in bench.run("key", path.name, "--stage", "c", expect=64).stderr
    other = bench.experiment(['source = "others.jsonl"'], name="other.toml")
    assert bench.run("key", path.name, "--stage", "b").stdout == bench.run("key", other.name).stdout


def test_list_stats_and_verify_tell_of_a_cache(prepared: tuple[Workbench, dict[str, Any]]) -> None:
    bench, answer = prepared
    prefix = answer["digest"][:6]
    assert answer["digest"][:12] in bench.run_anew("list").stdout
    (listed,) = json.loads(bench.run("list", "--json").stdout)
    assert (listed["digest"], listed["rows"], listed["chat_template"]) == (answer["digest"], 2, "tulu")
    statistics = json.loads(bench.run_anew("stats", prefix, "--json").stdout)
    assert (statistics["rows"], statistics["tokens"]) == (2, answer["tokens"])
    assert "mix[0]" in bench.run("stats", prefix).stdout
    assert json.loads(bench.run_anew("verify", prefix, "--json").stdout)["whole"] is True


def test_show_colours_exactly_what_is_trained(prepared: tuple[Workbench, dict[str, Any]]) -> None:
    bench, answer = prepared
    shown = bench.run_anew("show", answer["digest"], "--row", "1", "--color", "always").stdout
    assert shown == "<|user|>\né?\n<|assistant|>\n\x1b[32m\x1b[1m漢字 </s> 🎉</s>\x1b[0m\n"
    assert "\x1b" not in bench.run("show", answer["digest"]).stdout
    document = json.loads(bench.run("show", answer["digest"], "--json").stdout)
    assert [part["text"] for part in document["parts"] if part["trained"]] == ["so.</s>"]
    assert len(document["input_ids"]) == sum(part["tokens"] for part in document["parts"])


def test_export_gives_ids_and_labels_in_the_order_of_the_cache(
    prepared: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> None:
    bench, answer = prepared
    bench.run_anew("export", answer["digest"], "--format", "jsonl", "--to", str(tmp_path / "rows.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    expected = [{"input_ids": ids, "labels": labels} for ids, labels in cached_rows(bench)]
    assert rows == expected and list(rows[0]) == ["input_ids", "labels"]
    assert all(
        label in (-100, token) for row in rows for token, label in zip(row["input_ids"], row["labels"], strict=True)
    )
    bench.run("export", answer["digest"], "--format", "parquet", "--to", str(tmp_path / "rows.parquet"))
    assert parquet.read_table(tmp_path / "rows.parquet").to_pylist() == expected
    bench.run("export", answer["digest"], "--format", "hf", "--to", str(tmp_path / "hf"))
    assert sorted(path.name for path in (tmp_path / "hf").iterdir()) == [
        "data-00000-of-00001.arrow", "dataset_info.json", "state.json",
    ]  # fmt: skip
    refused = bench.run("export", answer["digest"], "--format", "hf", "--to", str(tmp_path / "hf"), expect=64)
    assert "exists" in refused.stderr
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def cached_rows(bench: Workbench) -> list[tuple[list[int], list[int]]]:
    return bench.rows(bench.provide({"source": "rows.jsonl"}, max_length_tokens=128))


@pytest.mark.parametrize("file", ["tokens-00000.arrow", "packing.arrow", "statistics.json", "tokenizer.json"])
def test_a_flipped_byte_is_found_and_its_file_named(file: str, prepared: tuple[Workbench, dict[str, Any]]) -> None:
    bench, answer = prepared
    path = Path(answer["path"]) / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert file in bench.run("verify", answer["digest"], expect=65).stderr
    assert file in bench.run("export", answer["digest"], "--format", "jsonl", "--to", "x.jsonl", expect=65).stderr


def test_a_manifest_that_was_edited_is_found(prepared: tuple[Workbench, dict[str, Any]]) -> None:
    bench, answer = prepared
    path = Path(answer["path"]) / "manifest.json"
    path.write_text(path.read_text().replace('"seed": 17', '"seed": 18'))
    assert "does not give its digest" in bench.run("verify", answer["digest"], expect=65).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["verify", "abc"], 64, "at least 6"),
        (["verify", "abcdef0123"], 66, "no such cache"),
        (["show"], 64, "DIGEST"),
        (["prepar"], 64, "Did you mean `prepare`"),
        (["prepare", "nowhere.toml"], 66, "nowhere.toml"),
        (["prepare", "experiment.toml", "--set", "dataset"], 64, "="),
        (["prepare", "experiment.toml", "--set", "dataset.mix.0.fraction=0"], 78, "above 0"),
        (["prepare", "experiment.toml", "--set", "dataset.mix.0.fraction=-0.5"], 78, "-0.5"),
        (["prepare", "experiment.toml", "--set", "dataset.mix.0.source=rowz.jsonl"], 66, "did you mean `rows.jsonl`"),
        (["prepare", "experiment.toml", "--set", "dataset.mix.0.format=mesages"], 78, "did you mean `messages`"),
        (["prepare", "experiment.toml", "--set", "model.chat_template=tullu"], 78, "did you mean `tulu`"),
        (["prepare", "experiment.toml", "--set", "model.name_or_path=./nowhere"], 66, "model.name_or_path"),
    ],
)
def test_a_wrong_call_has_its_exit_code_and_its_words(
    arguments: list[str], code: int, words: str, bench: Workbench
) -> None:
    bench.write("rows.jsonl", [conversation("why?", "so.")])
    bench.experiment(['source = "rows.jsonl"'])
    assert words in bench.run(*arguments, expect=code).stderr


def test_a_row_that_is_not_there_is_said(prepared: tuple[Workbench, dict[str, Any]]) -> None:
    bench, answer = prepared
    assert "the cache has 2 rows, 0 to 1" in bench.run("show", answer["digest"], "--row", "2", expect=66).stderr


def test_the_plugin_and_the_help_import_nothing_heavy(bench: Workbench) -> None:
    script = (
        "import sys, tunewright.dataset_cacher.plugin, tunewright.dataset_cacher.cli\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    environment_path = ":".join(sys.path)
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": environment_path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "prepare" in bench.run_anew("--help").stdout
    assert bench.run("--version").stdout.startswith("tunewright-dataset-cacher")


HEAVY = {"pyarrow", "tokenizers", "jinja2", "numpy", "rich", "huggingface_hub", "datasets", "fsspec", "orjson"}


def test_the_quickstarts_dataset_has_a_digest_and_naming_it_imports_nothing_heavy() -> None:
    root = Path("examples").absolute().parent if Path("examples/quickstart.toml").is_file() else REPOSITORY
    script = (
        "import sys\n"
        "from tunewright.dataset_cacher.cli import dataset_cacher\n"
        "dataset_cacher.main(['key', 'examples/quickstart.toml'], standalone_mode=False)\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=root, env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.strip()) == 64
