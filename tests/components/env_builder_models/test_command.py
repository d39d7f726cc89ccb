"""The commands as a user calls them: what they print, where, and how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from servers.model_hub import TOKEN, blob_name

from components.env_builder_models.hosted import CONFIG, FILES, MODEL_ID, TAKEN, WEIGHTS, Workbench
from tunewright.env_builder.models import command
from tunewright.env_builder.models import progress as module
from tunewright.env_builder.models.progress import PlainTransfer, bytes_text, describe


@pytest.fixture
def commit(bench: Workbench) -> str:
    return bench.hub.add(MODEL_ID, FILES)


def test_fetch_prints_the_directory_and_says_what_was_left_out(bench: Workbench, commit: str) -> None:
    done = bench.call("fetch-model", MODEL_ID, "--revision", commit)
    assert done.stdout == f"{bench.place(commit).snapshot}\n"
    assert f"{MODEL_ID}@{commit[:12]}: {len(TAKEN)} file(s)" in done.stderr
    assert "left out: pytorch_model.bin (a pickle" in done.stderr
    assert "left out: modeling_small.py (Python code" in done.stderr
    again = bench.call("fetch-model", MODEL_ID, "--revision", commit, HF_ENDPOINT="http://127.0.0.1:9")
    assert again.stdout == done.stdout
    assert "nothing to fetch" in again.stderr


def test_json_is_one_document_with_the_manifest_and_what_to_set(bench: Workbench, commit: str) -> None:
    document = json.loads(bench.call("fetch-model", MODEL_ID, "--revision", commit, "--json").stdout)
    assert (document["model_id"], document["commit"], document["fetched"]) == (MODEL_ID, commit, True)
    assert [file["file"] for file in document["files"]] == TAKEN
    assert document["fetched_bytes"] == document["bytes"] == sum(len(FILES[name]) for name in TAKEN)
    assert document["variables"]["HF_HUB_CACHE"] == str(bench.home / "models" / "hub")
    assert document["variables"]["HF_HUB_OFFLINE"] == "1"
    again = json.loads(bench.call("fetch-model", MODEL_ID, "--revision", commit, "--json").stdout)
    assert (again["fetched"], again["fetched_bytes"], again["digest"]) == (False, 0, document["digest"])


def test_a_dry_run_shows_both_lists_and_writes_nothing(bench: Workbench, commit: str) -> None:
    done = bench.call("fetch-model", MODEL_ID, "--revision", commit, "--dry-run")
    lines = done.stdout.splitlines()
    assert [line.split()[-1] for line in lines if line.startswith("fetch ")] == TAKEN
    assert any(line.startswith("leave out") and line.endswith("pytorch_model.bin") for line in lines)
    assert "nothing was written" in done.stderr
    document = json.loads(bench.call("fetch-model", MODEL_ID, "--revision", commit, "--dry-run", "--json").stdout)
    assert (document["dry_run"], document["missing_bytes"]) == (True, document["bytes"])
    assert not bench.home.exists()
    assert not bench.hub.served
    bench.call("fetch-model", MODEL_ID, "--revision", commit)
    document = json.loads(bench.call("fetch-model", MODEL_ID, "--revision", commit, "--dry-run", "--json").stdout)
    assert (document["dry_run"], document["fetched"]) == (True, False)


def test_a_dry_run_of_a_model_larger_than_the_disk_ends_with_77(bench: Workbench, commit: str) -> None:
    bench.hub.announced_bytes["model.safetensors"] = 10**17
    done = bench.call("fetch-model", MODEL_ID, "--revision", commit, "--dry-run", expect=77)
    assert "[model-disk-space]" in done.stderr


def test_what_an_earlier_call_allowed_is_said(bench: Workbench, commit: str) -> None:
    bench.call("fetch-model", MODEL_ID, "--revision", commit, "--allow-unsafe-weights", "--allow-code")
    done = bench.call("fetch-model", MODEL_ID, "--revision", commit)
    assert "an earlier call allowed it files of this kind: a pickle" in done.stderr
    assert "an earlier call allowed it files of this kind: Python code" in done.stderr


def test_a_tokenizer_without_weights_is_fetched_and_said(bench: Workbench) -> None:
    commit = bench.hub.add("makers/words", {"tokenizer.json": b"{}"})
    assert "it has no weights" in bench.call("fetch-model", "makers/words", "--revision", commit).stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (MODEL_ID,),
        (MODEL_ID, "--revision", "main"),
        (MODEL_ID, "--revision", "abc123"),
        ("no/such/id", "--revision", "0" * 40),
        (MODEL_ID, "--revision", "0" * 40, "--unsafe"),
    ],
)
def test_a_wrong_command_line_ends_with_64_and_asks_nobody(arguments: tuple[str, ...], bench: Workbench) -> None:
    bench.call("fetch-model", *arguments, expect=64)
    assert bench.hub.calls == []


def test_exit_codes_tell_what_went_wrong(bench: Workbench, commit: str) -> None:
    pickles = bench.hub.add("makers/pickles", {"config.json": CONFIG, "pytorch_model.bin": b"pickle"})
    bench.call("fetch-model", MODEL_ID, "--revision", "f" * 40, expect=66)
    bench.call("fetch-model", "makers/nothing", "--revision", commit, expect=66)
    bench.call("fetch-model", "makers/pickles", "--revision", pickles, expect=77)
    bench.call("fetch-model", MODEL_ID, "--revision", commit, HF_HUB_OFFLINE="1", expect=69)
    bench.hub.gated.add(MODEL_ID)
    refused = bench.call("fetch-model", MODEL_ID, "--revision", commit, expect=69)
    assert "HF_TOKEN" in refused.stderr
    opened = bench.call("fetch-model", MODEL_ID, "--revision", commit, HF_TOKEN=TOKEN)
    assert TOKEN not in opened.stdout + opened.stderr
    other = bench.hub.add(MODEL_ID, {**FILES, "config.json": CONFIG + b" "})
    bench.hub.served_instead["config.json"] = bytes(len(CONFIG) + 1)
    bench.call("fetch-model", MODEL_ID, "--revision", other, HF_TOKEN=TOKEN, expect=65)


def test_list_and_verify_speak_of_what_is_there(bench: Workbench, commit: str) -> None:
    assert bench.call("list-models").stdout == ""
    bench.call("fetch-model", MODEL_ID, "--revision", commit)
    listed = json.loads(bench.call("list-models", "--json").stdout)
    assert [(one["model_id"], one["commit"]) for one in listed] == [(MODEL_ID, commit)]
    assert bench.call("list-models").stdout.startswith(f"{MODEL_ID}@{commit}")
    verified = json.loads(bench.call("verify-model", f"{MODEL_ID}@{commit}", "--json").stdout)
    assert (verified["verified"], verified["digest"]) == (True, listed[0]["digest"])
    blob = bench.place(commit).blob(blob_name("model.safetensors", WEIGHTS))
    blob.write_bytes(WEIGHTS[:-1] + b"!")
    assert str(blob) in bench.call("verify-model", f"{MODEL_ID}@{commit}", expect=65).stderr
    bench.call("verify-model", f"{MODEL_ID}@{'f' * 40}", expect=66)
    bench.call("verify-model", MODEL_ID, expect=64)


def test_a_terminal_shows_a_bar(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, {"config.json": CONFIG, "model.safetensors": WEIGHTS})
    bench.hub.fail(503, name="model.safetensors")
    leader, follower = os.openpty()
    process = bench.start("fetch-model", MODEL_ID, "--revision", commit, stderr=follower, TERM="xterm", COLUMNS="100")
    os.close(follower)
    shown = b""
    while True:
        try:
            block = os.read(leader, 4096)
        except OSError:
            break
        shown += block
        if not block:
            break
    os.close(leader)
    assert process.wait(timeout=50) == 0
    assert b"\x1b[" in shown
    assert b"makers/small" in shown
    assert b"the hub answered 503; trying again in 1 s" in shown


def test_elsewhere_a_plain_line_comes_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = PlainTransfer()
    progress.start("makers/small", 4_000_000_000, 1_000_000_000)
    progress.advance(500_000_000)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(module, "PLAIN_SECONDS", 0.0)
    progress.advance(500_000_000)
    line = capsys.readouterr().err
    assert line.startswith("makers/small: 2.0 GB of 4.0 GB, ")
    assert line.count("\n") == 1


def test_rate_and_time_left_are_of_what_came_now() -> None:
    assert describe(1_000_000_000, 1_000_000_000, 4_000_000_000, 10) == "2.0 GB of 4.0 GB, 100.0 MB/s, 20 s left"
    assert describe(10, 0, 20, 5) == "10 B of 20 B, 0 B/s"
    assert [bytes_text(size) for size in (0, 999, 1000, 2.5e15)] == ["0 B", "999 B", "1.0 kB", "2500.0 TB"]


def test_the_commands_start_without_the_hubs_library() -> None:
    script = (
        f"import sys, {command.__name__}; print([name for name in ('huggingface_hub', 'rich') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_names_every_option(bench: Workbench) -> None:
    text = bench.call("fetch-model", "--help").stdout
    options = ("--revision", "--allow-unsafe-weights", "--allow-code", "--dry-run", "--json", "HF_TOKEN")
    assert [option for option in options if option not in text] == []
    assert Path(bench.home).exists() is False
