"""Datasets of the hub at a commit: Hugging Face's own client against a hub on a loopback port, in other processes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from servers.forked_commands import forked_commands
from servers.model_hub import ModelHub

from components.dataset_cacher.workbench import IMPORTED, Workbench, conversation
from tunewright.contracts.errors import TunewrightError
from tunewright.dataset_cacher.reading.hub import HubDataset, fetch_hub_files
from tunewright.dataset_cacher.reading.readers import read_part, scan_file

NAME = "owner/conversations"


def as_jsonl(*answers: str) -> bytes:
    return "".join(json.dumps(conversation("a", answer)) + "\n" for answer in answers).encode()


CONFIGS = b"---\nconfigs:\n- config_name: a\n  data_files: a.jsonl\n- config_name: b\n  data_files: b.jsonl\n---\n"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModelHub]:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_DATASETS_CACHE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    with ModelHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield hub


def add(hub: ModelHub, **files: bytes) -> str:
    return hub.add(f"datasets/{NAME}", {name.replace("__", "."): content for name, content in files.items()})


def fetch(*wanted: tuple[str, str | None, str]) -> list[dict[str, Any]]:
    """What becomes of each commit, configuration and split, in one process: Hugging Face reads its variables once."""
    run = forked_commands(IMPORTED).run(__file__, [json.dumps(wanted)], Path.cwd(), os.environ, timeout_seconds=55)
    assert run.returncode == 0, run.stderr
    answers: list[dict[str, Any]] = json.loads(run.stdout)
    return answers


def _fetch_all(wanted: Sequence[Any]) -> Iterator[dict[str, Any]]:
    for commit, config, split in wanted:
        try:
            files = fetch_hub_files(HubDataset(NAME, commit, config, split), "dataset.mix[0]")
            parts = [(file, part) for file in files for part in scan_file(file).parts]
            rows: list[Any] = [row for file, part in parts for _, row in read_part(file, part)]
            yield {"rows": [row["messages"][1]["content"] for row in rows], "shown": [file.shown for file in files]}
        except TunewrightError as error:
            yield {"code": error.exit_code, "message": str(error)}


def test_the_train_split_at_a_commit_is_prepared_and_named_by_the_commit(hub: ModelHub, bench: Workbench) -> None:
    commit = add(hub, train__jsonl=as_jsonl("one", "two", "three"), test__jsonl=as_jsonl("four"))
    source = {"source": NAME, "revision": commit}
    named = bench.provide(source, plan_only=True)
    assert named.key["sources"][0]["hub"] == {"id": NAME, "revision": commit, "config": None, "split": "train"}
    assert "files" not in named.key["sources"][0]
    assert hub.calls == []  # a key needs no hub
    path = bench.experiment([f'source = "{NAME}"\nrevision = "{commit}"'])
    document = json.loads(bench.run("prepare", str(path), "--json").stdout)
    assert document["rows"] == 3 and hub.calls != []
    hub.calls.clear()
    found = bench.provide(source, max_length_tokens=128)
    assert found.is_hit and found.dataset.digest == document["digest"]
    assert bench.trained(found) == ["one</s>", "two</s>", "three</s>"]
    assert hub.calls == []  # nor does a hit


def test_the_key_has_commit_configuration_and_split(bench: Workbench) -> None:
    base = {"source": NAME, "revision": "1" * 40}
    others = [{"split": "test"}, {"config": "b"}, {"revision": "2" * 40}, {"source": "owner/other"}, {"split": "train"}]
    digests = [bench.digest(base), *(bench.digest({**base, **other}) for other in others)]
    assert digests[-1] == digests[0] and len(set(digests)) == 5


def test_splits_commits_and_configurations_give_their_own_rows(hub: ModelHub) -> None:
    first = add(hub, train__jsonl=as_jsonl("one"), test__jsonl=as_jsonl("two", "three"))
    second = add(hub, train__jsonl=as_jsonl("one", "more"), test__jsonl=as_jsonl("two", "three"))
    configs = add(hub, README__md=CONFIGS, a__jsonl=as_jsonl("four"), b__jsonl=as_jsonl("five"))
    wanted = [(first, None, "train"), (first, None, "test"), (second, None, "train"), (configs, "b", "train")]
    answers = fetch(*wanted)
    assert [one["rows"] for one in answers] == [["one"], ["two", "three"], ["one", "more"], ["five"]]
    assert answers[0]["shown"] == [f"{NAME}@{first[:12]}/conversations-train.arrow"]


def test_what_the_hub_does_not_have_ends_in_words_and_its_code(hub: ModelHub, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    plain = add(hub, train__jsonl=as_jsonl("one"))
    configs = add(hub, README__md=CONFIGS, a__jsonl=as_jsonl("four"), b__jsonl=as_jsonl("five"))
    script = add(hub, conversations__py=f"open({str(trap)!r}, 'w')\n".encode())
    wanted = [(script, None, "train"), (plain, None, "valid"), ("0" * 40, None, "train"), (configs, None, "train")]
    expected = [
        (78, ["dataset.mix[0].source: ", "Dataset scripts are no longer supported"]),
        (78, ["dataset.mix[0].split: ", "'train'"]),
        (66, ["dataset.mix[0].source: ", f"{NAME}@000000000000 is not on the hub"]),
        (78, ["dataset.mix[0].config: ", "Config name is missing"]),
        # Now another commit is in the local cache, and `datasets` would take that.
        (69, ["dataset.mix[0].source: ", "of another commit", "nothing is taken"]),
    ]
    for answer, (code, words) in zip(fetch(*wanted, wanted[0]), expected, strict=True):
        assert answer["code"] == code, answer
        assert [word for word in words if word not in answer["message"]] == []
    assert not trap.exists()  # code of a dataset is never run


def test_a_gated_dataset_is_refused_with_what_to_do(hub: ModelHub) -> None:
    commit = add(hub, train__jsonl=as_jsonl("one"))
    hub.gated.add(f"datasets/{NAME}")
    (answer,) = fetch((commit, None, "train"))
    assert answer["code"] == 69 and "the hub refuses" in answer["message"] and "HF_TOKEN" in answer["message"]


def test_a_hub_that_does_not_answer_is_unavailable_and_what_was_loaded_is_taken_offline(
    hub: ModelHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = add(hub, train__jsonl=as_jsonl("one", "two"))
    first = fetch((commit, None, "train"))
    newer = add(hub, train__jsonl=as_jsonl("one", "two", "three"))
    hub.close()
    (refused,) = fetch((commit, None, "train"))
    assert refused["code"] == 69
    assert "could not be had" in refused["message"] and "HF_HUB_OFFLINE=1" in refused["message"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    again, other = fetch((commit, None, "train"), (newer, None, "train"))
    assert [again] == first
    # Never the commit that happens to be there instead of the one that is asked for.
    assert other["code"] == 69, other


if __name__ == "__main__":
    print(json.dumps(list(_fetch_all(json.loads(sys.argv[1])))))
