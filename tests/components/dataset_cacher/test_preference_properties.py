"""The ids and spans of any pairs are those of a slow reference: any template, tokenizer and length."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from components.dataset_cacher import reference
from components.dataset_cacher.published_formats import Message, text_of
from components.dataset_cacher.tokenizers_zoo import SPECIAL_TOKENS, ZOO, write_model
from components.dataset_cacher.workbench import Workbench
from tunewright.contracts.errors import InvalidDataset

FRAGMENTS = [*SPECIAL_TOKENS, "<|assistant|>\n", "<|user|>\n", "Assistant: ", "\n", " ", "  the answer is", "é", "漢字",
             "🎉👩‍👩‍👧", "e\u0301", "\r\n", "{{ 1 }}", "it is the ", "<think>hm</think>",
             "what is the yes" * 60]  # fmt: skip
CONTENT = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=4)), max_size=4).map("".join)
KINDS = ("byte_level_split", "byte_level", "sentencepiece")


class Model(NamedTuple):
    """A tokenizer, and the directory it is in."""

    tokenizer: Tokenizer
    directory: Path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """A model directory for each kind of tokenizer."""
    root = tmp_path_factory.mktemp("zoo")
    made = {kind: ZOO[kind]() for kind in KINDS}
    return {kind: Model(tokenizer, write_model(root / kind, tokenizer, "</s>")) for kind, tokenizer in made.items()}


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    """For names of sources that are new in each example."""
    return itertools.count()


def said(role: str) -> st.SearchStrategy[Message]:
    return st.fixed_dictionaries({"role": st.just(role), "content": CONTENT})


def spoken(roles: Sequence[str]) -> st.SearchStrategy[list[Message]]:
    return st.tuples(*map(said, roles)).map(list)


PROMPT = st.sampled_from(
    [["user"], ["user"], ["system", "user"], ["user", "assistant", "user"], ["user", "assistant", "tool"]]
).flatmap(spoken)
COMPLETION = st.sampled_from([["assistant"], ["assistant"], ["assistant", "user", "assistant"]]).flatmap(spoken)


@st.composite
def pair(draw: st.DrawFn) -> dict[str, Any]:
    """A row whose answers are sometimes the same, or the same at first."""
    prompt, chosen = draw(PROMPT), draw(COMPLETION)
    rejected = draw(st.one_of(COMPLETION, COMPLETION, said("assistant").map(lambda last: [*chosen[:-1], last])))
    if draw(st.integers(0, 4)) == 0:
        rejected = chosen
    elif chosen[0] == rejected[0] and chosen[:-1] != rejected[:-1]:
        rejected[0] = {**rejected[0], "content": rejected[0]["content"] + "!"}  # else two questions would differ first
    if draw(st.booleans()):
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    return {"chosen": [*prompt, *chosen], "rejected": [*prompt, *rejected]}


TEMPLATES = ["tulu", "zephyr", "olmo", "olmo_thinker", "simple_chat", "simple_concat_with_space", "r1_simple_chat",
             "qwen_instruct_user_boxed_math"]  # fmt: skip
"""Of every kind: which ask for an answer, think first, strip contents, end a turn with a token or with none."""


@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=5, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(pair(), min_size=2, max_size=8),
    kind=st.sampled_from(KINDS),
    max_length_tokens=st.sampled_from([4096, 300, 40]),
    last_only=st.booleans(),
)
def test_every_pair_of_a_cache_has_the_ids_and_labels_of_the_slow_reference(
    template: str,
    rows: list[dict[str, Any]],
    kind: str,
    max_length_tokens: int,
    last_only: bool,
    models: dict[str, Model],
    numbers: Iterator[int],
    tmp_path: Path,
) -> None:
    project = tmp_path / str(next(numbers))
    project.mkdir()
    bench = Workbench(project, models[kind].directory, project / "datasets")
    bench.write("pairs.jsonl", rows)
    made = [pair_labels(template, row, models[kind].tokenizer, max_length_tokens, last_only) for row in rows]
    kept = [number for number, one in enumerate(made) if not isinstance(one, str)]
    source = {"source": "pairs.jsonl", "format": "preference"}
    source["train_on"] = "last_assistant" if last_only else "assistant"
    options = {"template": template, "max_length_tokens": max_length_tokens, "max_dropped_fraction": 1.0}
    if not kept:
        with pytest.raises(InvalidDataset, match="no row is left to train on"):
            bench.provide(source, **options)
        return
    provided = bench.provide(source, **options)
    assert bench.origins(provided) == [(0, number) for number in kept for _ in range(2)]
    assert bench.rows(provided) == [side for number in kept for side in made[number]]
    reasons = [one for one in made if isinstance(one, str)]
    assert provided.dataset.dropped == {reason: reasons.count(reason) for reason in set(reasons)}


def pair_labels(
    template: str, row: dict[str, Any], tokenizer: Tokenizer, max_length_tokens: int, last_only: bool
) -> str | list[reference.Labels]:
    """Ids and labels of both sides, or why the pair is left out."""
    prompt = row.get("prompt", [])
    chosen, rejected = [*prompt, *row["chosen"]], [*prompt, *row["rejected"]]
    shared = 0
    while chosen[: shared + 1] == rejected[: shared + 1] and shared < min(len(chosen), len(rejected)):
        shared += 1
    if chosen == rejected:
        shared = len(chosen) - 1
    sides = [
        side_labels(template, messages, shared, tokenizer, max_length_tokens, last_only)
        for messages in (chosen, rejected)
    ]
    if any(max(labels, default=-100) < 0 for _, labels in sides):
        return "no_trained_tokens"
    return "equal_answers" if sides[0][0] == sides[1][0] else sides


def side_labels(
    template: str,
    messages: list[Message],
    num_shared: int,
    tokenizer: Tokenizer,
    max_length_tokens: int,
    last_only: bool,
) -> reference.Labels:
    """Trained is what overlaps what an answer behind the shared messages says, its end of turn included."""
    answers = [number for number, one in enumerate(messages) if one["role"] == "assistant"]
    spans = reference.said_spans(template, messages, "</s>")
    chosen = answers[-1:] if last_only else answers
    wanted = [spans[number] for number in chosen if number >= num_shared and number in spans]
    encoding = tokenizer.encode(text_of(template, messages, "</s>"), add_special_tokens=False)
    return reference.labels_of(encoding, wanted, max_length_tokens)
