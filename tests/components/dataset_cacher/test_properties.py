"""The ids and labels of a cache are those of the reference: any conversation, template, tokenizer and engine."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from components.dataset_cacher import reference
from components.dataset_cacher.published_formats import FORMATS, Message
from components.dataset_cacher.tokenizers_zoo import SPECIAL_TOKENS, ZOO, write_model
from components.dataset_cacher.workbench import Workbench
from tunewright.contracts.errors import InvalidDataset

ENGINE_VARIABLE = "TUNEWRIGHT_TOKENIZER_ENGINE"

FASTOKENS_TAKES = ("byte_level", "byte_level_split", "byte_level_trimmed", "byte_level_composed")

ENGINES = [*((kind, "") for kind in ZOO), *((kind, "tokenizers") for kind in ZOO),
           *((kind, "fastokens") for kind in FASTOKENS_TAKES)]  # fmt: skip
"""Kind of tokenizer and engine; none is the one that the self-check chooses."""

KEPT_BY_OPEN_INSTRUCT = [
    "assistant_message_only", "olmo", "olmo_old", "olmo_thinker_no_think_7b", "olmo_thinker_no_think_sft_tokenization",
    "qwen_instruct_user_boxed_math", "simple_concat_with_new_line", "simple_concat_with_space", "tulu", "zephyr",
]  # fmt: skip
"""Templates with which open-instruct keeps rows. With the other eleven it drops all or all of several turns."""

FRAGMENTS = [*SPECIAL_TOKENS, "<|assistant|>\n", "<|user|>\n", "Assistant: ", "\n", "\n\n", " ", "  the answer is", "é",
             "漢字", "🎉👩‍👩‍👧", "e\u0301", "\u00a0", "\r\n", "{{ 1 }}", "{% raw %}", "it is the ", "<think>",
             "</think>", "<think>hm</think>", "\ufdd0content0\ufdd1", "\ufdd21\ufdd3",
             "what is the yes" * 120]  # fmt: skip
CONTENT = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=5)), max_size=5).map("".join)
ROLES = st.sampled_from(["user", "assistant", "assistant", "system", "environment", "tool"])


@st.composite
def orderly_roles(draw: st.DrawFn) -> list[str]:
    """As in real data: perhaps a system message, then turns, perhaps a question that nobody answers."""
    start, end = draw(st.sampled_from([[], ["system"]])), draw(st.sampled_from([[], [], ["user"]]))
    return [*start, *(["user", "assistant"] * draw(st.integers(1, 3))), *end]


def spoken(roles: st.SearchStrategy[list[str]]) -> st.SearchStrategy[list[Message]]:
    """Conversations of these roles, with anything said."""

    def fill(names: list[str]) -> st.SearchStrategy[list[Message]]:
        return st.tuples(*[st.fixed_dictionaries({"role": st.just(name), "content": CONTENT}) for name in names]).map(
            list
        )

    return roles.flatmap(fill)


ORDERLY = spoken(orderly_roles())
CONVERSATION = st.one_of(ORDERLY, spoken(st.lists(ROLES, min_size=1, max_size=6)))


class Model(NamedTuple):
    """A tokenizer, and the directory it is in."""

    tokenizer: Tokenizer
    directory: Path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Model]:
    """Every kind of tokenizer, by kind and end-of-sequence token."""
    root = tmp_path_factory.mktemp("zoo")
    made = {kind: make() for kind, make in ZOO.items()}
    return {
        (kind, eos): Model(tokenizer, write_model(root / f"{kind}-{number}", tokenizer, eos))
        for kind, tokenizer in made.items()
        for number, eos in enumerate(("</s>", "<|im_end|>"))
    }


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    """For names of sources that are new in each example."""
    return itertools.count()


@contextmanager
def engine_asked_for(name: str) -> Iterator[None]:
    before = os.environ.pop(ENGINE_VARIABLE, None)
    os.environ.update({ENGINE_VARIABLE: name} if name else {})
    try:
        yield
    finally:
        os.environ.pop(ENGINE_VARIABLE, None)
        os.environ.update({ENGINE_VARIABLE: before} if before else {})


@pytest.mark.parametrize("template", sorted(FORMATS))
@settings(max_examples=5, suppress_health_check=list(HealthCheck))
@given(
    conversations=st.lists(CONVERSATION, min_size=4, max_size=16),
    engine=st.sampled_from(ENGINES),
    eos=st.sampled_from(["</s>", "</s>", "<|im_end|>"]),
    max_length_tokens=st.sampled_from([4096, 4096, 400, 64, 9]),
    last_only=st.booleans(),
)
def test_every_row_of_a_cache_has_the_ids_and_labels_of_the_slow_reference(
    template: str,
    conversations: Sequence[list[Message]],
    engine: tuple[str, str],
    eos: str,
    max_length_tokens: int,
    last_only: bool,
    models: dict[tuple[str, str], Model],
    numbers: Iterator[int],
    tmp_path: Path,
) -> None:
    model = models[engine[0], eos]
    project = tmp_path / str(next(numbers))
    project.mkdir()
    bench = Workbench(project, model.directory, project / "datasets")
    bench.write("rows.jsonl", [{"messages": one} for one in conversations])
    expected = [
        reference.right_labels(template, one, model.tokenizer, eos, max_length_tokens, last_only)
        for one in conversations
    ]
    kept = [row for row, (_, labels) in enumerate(expected) if max(labels, default=-100) >= 0]
    source = {"source": "rows.jsonl", "train_on": "last_assistant" if last_only else "assistant"}
    options = {"template": template, "max_length_tokens": max_length_tokens, "max_dropped_fraction": 1.0}
    with engine_asked_for(engine[1]):
        if not kept:
            with pytest.raises(InvalidDataset, match=f"no row is left to train on: {len(conversations)} no_trained"):
                bench.provide(source, **options)
            return
        provided = bench.provide(source, **options)
    assert [row for _, row in bench.origins(provided)] == kept
    assert bench.rows(provided) == [expected[row] for row in kept]
    assert sum(provided.dataset.dropped.values()) == len(conversations) - len(kept)


@pytest.mark.parametrize("template", KEPT_BY_OPEN_INSTRUCT)
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    messages=ORDERLY,
    kind=st.sampled_from(sorted(ZOO)),
    eos=st.sampled_from(["</s>", "<|im_end|>"]),
    max_length_tokens=st.sampled_from([4096, 4096, 64, 9]),
)
def test_what_is_right_is_what_open_instruct_gives_for_the_rows_it_keeps(
    template: str,
    messages: list[Message],
    kind: str,
    eos: str,
    max_length_tokens: int,
    models: dict[tuple[str, str], Model],
) -> None:
    tokenizer = models[kind, eos].tokenizer
    theirs = reference.open_instruct_labels(template, messages, tokenizer, eos, max_length_tokens)
    if template.startswith("simple_concat") and reference.char_spans(template, messages, eos) is None:
        return  # by their count of tokens an answer that is not the last has a token of the next message
    if theirs is not None:
        assert reference.right_labels(template, messages, tokenizer, eos, max_length_tokens) == theirs


TWO_TURNS = [{"role": role, "content": f"{role} {turn}."} for turn in (1, 2) for role in ("user", "assistant")]


@pytest.mark.parametrize("template", sorted(FORMATS.keys() - {"chatml"}))
def test_open_instruct_keeps_conversations_of_two_turns_with_ten_templates_of_21(
    template: str, models: dict[tuple[str, str], Model]
) -> None:
    model = models["byte_level_split", "</s>"]
    theirs = reference.open_instruct_labels(template, TWO_TURNS, model.tokenizer, "</s>", 4096)
    assert (theirs is not None) == (template in KEPT_BY_OPEN_INSTRUCT)
