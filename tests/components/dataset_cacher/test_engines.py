"""The fast engine gives what the reference gives, or is not used; the cache is the same with either."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from components.dataset_cacher.tokenizers_zoo import ZOO, write_model
from components.dataset_cacher.workbench import Workbench, bytes_below, conversation
from tunewright.contracts.errors import InvalidDataset, InvalidExperiment
from tunewright.dataset_cacher.chat.masking import Rendered
from tunewright.dataset_cacher.chat.texts import Skeleton
from tunewright.dataset_cacher.tokens.anchors import Anchors
from tunewright.dataset_cacher.tokens.encoding import Encoder
from tunewright.dataset_cacher.tokens.engines import (
    ENGINE_VARIABLE,
    FAST_THREADS_VARIABLE,
    FastEngine,
    ReferenceEngine,
    TokenBatch,
    limit_threads,
)
from tunewright.dataset_cacher.tokens.layout import Runs
from tunewright.dataset_cacher.tokens.self_check import EngineDiffers, adversarial_texts, beginning_of, check_engine

SPELLED = ["byte_level", "byte_level_split", "byte_level_trimmed", "byte_level_composed"]
"""Kinds whose tokens spell out the bytes of a text."""


def encoders(tokenizer: Tokenizer) -> tuple[Encoder, Encoder]:
    pipeline = json.loads(tokenizer.to_str())
    fast = Encoder(tokenizer, FastEngine(tokenizer.to_str()), pipeline)
    return fast, Encoder(tokenizer, ReferenceEngine(tokenizer), pipeline)


def every_span(text: str) -> list[Rendered]:
    """`text` with each of its characters trained alone, and each beginning of it."""
    places = range(len(text))
    return [Rendered(text, ((at, at + 1),)) for at in places] + [Rendered(text, ((0, at + 1),)) for at in places]


@pytest.mark.parametrize("kind", SPELLED)
def test_ids_and_spans_are_those_of_the_reference_for_every_place_a_span_can_have(kind: str) -> None:
    fast, reference = encoders(ZOO[kind]())
    assert fast.is_fast
    texts = ["the answer  is\n\n é 漢字 ", " e\u0301</s> it is <|im_start|>\nyes", "  ", "👩‍👩‍👧 \u212b"]
    for text in texts:
        assert check_engine(fast, reference, every_span(text), 4096).texts == 2 * len(text)


@pytest.mark.parametrize("kind", SPELLED)
def test_adversarial_texts_pass_and_cutting_makes_no_difference(kind: str) -> None:
    fast, reference = encoders(ZOO[kind]())
    for max_length_tokens in (4096, 7, 1):
        checked = check_engine(fast, reference, adversarial_texts(["</s>", "<|im_end|>"]), max_length_tokens)
        assert checked.texts > 50 and checked.tokens > checked.texts / 2


@pytest.mark.parametrize("kind", sorted(ZOO.keys() - set(SPELLED)))
def test_tokens_that_do_not_spell_their_text_are_left_to_the_reference(kind: str) -> None:
    try:
        fast, _ = encoders(ZOO[kind]())
    except ValueError as refusal:  # the engine says itself what it does not take
        assert "unsupported" in str(refusal)
    else:
        assert not fast.is_fast


class Lying(FastEngine):
    """An engine that is wrong about one word."""

    word = "zebra"

    def encode(self, texts: Sequence[str]) -> TokenBatch:
        return super().encode([text.replace(self.word, self.word[::-1]) for text in texts])


def test_a_difference_is_found_and_its_text_shown() -> None:
    tokenizer = ZOO["byte_level"]()
    pipeline = json.loads(tokenizer.to_str())
    lying, reference = Encoder(tokenizer, Lying(tokenizer.to_str()), pipeline), encoders(tokenizer)[1]
    check_engine(lying, reference, adversarial_texts([]), 64)
    with pytest.raises(EngineDiffers, match="a zebra crosses"):
        check_engine(lying, reference, [Rendered("no", ()), Rendered("a zebra crosses", ((0, 3),))], 64)


def test_the_beginning_of_a_text_has_what_is_trained_of_it() -> None:
    text = Rendered("what? because.", ((0, 2), (6, 10), (11, 14)))
    assert beginning_of(text, 8) == Rendered("what? be", ((0, 2), (6, 8)))
    assert beginning_of(text, 6) == Rendered("what? ", ((0, 2),))
    assert beginning_of(text, 99) == text


@pytest.fixture
def rows(bench: Workbench) -> Callable[[str], bytes]:
    """Prepares a source whose first answer is `answer`, and gives the bytes of its shards."""

    def shards(answer: str) -> bytes:
        bench.write("rows.jsonl", [conversation("what?", answer), *(conversation(f"{n}?", "it is") for n in range(40))])
        path = Path(bench.provide({"source": "rows.jsonl"}).dataset.path)
        return bytes_below(path)["tokens-00000.arrow"]

    return shards


def test_the_manifest_says_which_engine_it_was_and_how_much_was_compared(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("a", "b")])
    engine = bench.manifest(bench.provide({"source": "rows.jsonl"})).engine
    assert engine["name"] == "fastokens" and engine["checked_texts"] > 50 and engine["version"]


def test_an_engine_that_differs_on_the_real_data_is_given_up_loudly(
    rows: Callable[[str], bytes], bench: Workbench, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tunewright.dataset_cacher.preparation.part_encoding.FastEngine", Lying)
    found = rows("a zebra crosses")
    assert "fastokens and tokenizers differ on" in (said := capfd.readouterr().err) and "zebra" in said
    monkeypatch.setenv(ENGINE_VARIABLE, "tokenizers")
    for path in bench.cache_root.glob("*"):
        path.rename(bench.project / path.name)
    assert rows("a zebra crosses") == found


def test_special_tokens_that_tell_other_tokens_to_train_than_the_text_does_are_given_up_loudly(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bench.write("rows.jsonl", [conversation(f"{number}?", "it is the answer") for number in range(40)])
    right = bench.rows(bench.provide({"source": "rows.jsonl"}, template="zephyr"))
    trained_runs = Anchors.trained_runs

    def one_token_late(self: Anchors, skeletons: Sequence[Skeleton], batch: TokenBatch) -> Runs | None:
        told = trained_runs(self, skeletons, batch)
        return told and Runs(told.texts, told.starts + 1, told.ends)

    monkeypatch.setattr(Anchors, "trained_runs", one_token_late)
    for path in bench.cache_root.glob("*"):
        path.rename(bench.project / path.name)
    capfd.readouterr()
    assert bench.rows(bench.provide({"source": "rows.jsonl"}, template="zephyr")) == right
    assert "fastokens and tokenizers differ on" in capfd.readouterr().err


@pytest.mark.parametrize("engine", ["fastokens", "tokenizers"])
def test_the_engine_decides_neither_digest_nor_tokens(
    engine: str, rows: Callable[[str], bytes], bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENGINE_VARIABLE, engine)
    found = rows("it is the answer")
    digest = bench.digest({"source": "rows.jsonl"})
    monkeypatch.delenv(ENGINE_VARIABLE)
    assert bench.digest({"source": "rows.jsonl"}) == digest
    (bench.cache_root / digest).rename(bench.project / "before")
    assert rows("it is the answer") == found


@pytest.mark.parametrize("engine", ["fastokens", "tokenizers"])
def test_a_bad_row_is_named_with_every_engine(engine: str, bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENGINE_VARIABLE, engine)
    good, bad = conversation("a", "b"), dict[str, Any](messages=[])
    for number, rows in ((2, [good, bad]), (1, [bad, good]), (2, [good, bad, good])):
        bench.write("rows.jsonl", rows)
        with pytest.raises(InvalidDataset, match=rf"rows\.jsonl:{number}: format `messages`: `messages` is empty"):
            bench.provide({"source": "rows.jsonl"})


@pytest.mark.parametrize(
    ("is_one_of_several", "told", "expected"),
    [
        (True, {}, "1"),
        (True, {"RAYON_NUM_THREADS": "4"}, "1"),
        (False, {"RAYON_NUM_THREADS": "4"}, "4"),
        (False, {}, None),
        (True, {FAST_THREADS_VARIABLE: "3"}, "3"),
    ],
)
def test_the_fast_engine_has_no_more_threads_than_a_process_has_cores_or_a_user_allows(
    is_one_of_several: bool, told: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAYON_NUM_THREADS", FAST_THREADS_VARIABLE):
        monkeypatch.setenv(name, "")  # so that whatever is set is taken back
        monkeypatch.delenv(name)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    limit_threads(is_one_of_several)
    assert os.environ.get(FAST_THREADS_VARIABLE) == expected


def test_with_one_thread_allowed_the_fast_engine_starts_no_other(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("a", "b")])
    bench.experiment(['source = "rows.jsonl"'])
    code = """if True:
        from pathlib import Path
        from tunewright.dataset_cacher.cli import dataset_cacher
        dataset_cacher.main(["prepare", "experiment.toml"], standalone_mode=False)
        print("threads:", *(name.read_text().strip() for name in Path("/proc/self/task").glob("*/comm")))
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "RAYON_NUM_THREADS": "1",
                   "TUNEWRIGHT_HOME": str(bench.project / "home")}  # fmt: skip
    command = [sys.executable, "-B", "-c", code]
    done = subprocess.run(command, cwd=bench.project, env=environment, text=True, capture_output=True, check=True)
    assert done.stdout.splitlines()[-1].startswith("threads:")
    assert "fastokens" not in done.stdout


def test_an_engine_that_there_is_not_is_refused(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENGINE_VARIABLE, "tiktoken")
    bench.write("rows.jsonl", [conversation("a", "b")])
    with pytest.raises(InvalidExperiment, match=r"TUNEWRIGHT_TOKENIZER_ENGINE=tiktoken") as refused:
        bench.provide({"source": "rows.jsonl"})
    assert refused.value.hint == "allowed: fastokens, tokenizers"


def test_asking_for_the_fast_engine_where_it_cannot_be_used_is_refused(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENGINE_VARIABLE, "fastokens")
    other = Workbench(bench.project, write_model(tmp_path / "model", ZOO["sentencepiece"]()), bench.cache_root)
    other.write("rows.jsonl", [conversation("a", "b")])
    with pytest.raises(InvalidDataset, match="this tokenizer cannot be left to it"):
        other.provide({"source": "rows.jsonl"})
