"""Special tokens tell the same tokens to train as the reference does, or nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from components.dataset_cacher.tokenizers_zoo import SPECIAL_TOKENS, ZOO
from tunewright.dataset_cacher.chat.conversations import Conversation, make_conversation
from tunewright.dataset_cacher.chat.masking import Masker
from tunewright.dataset_cacher.chat.rendering import Renderer
from tunewright.dataset_cacher.chat.skeletons import SkeletonRenderer
from tunewright.dataset_cacher.chat.texts import TextBatch
from tunewright.dataset_cacher.tokens.alignment import find_alignment
from tunewright.dataset_cacher.tokens.anchors import Anchors
from tunewright.dataset_cacher.tokens.encoding import Encoder
from tunewright.dataset_cacher.tokens.engines import FastEngine, ReferenceEngine
from tunewright.dataset_cacher.tokens.layout import rendered_of
from tunewright.dataset_cacher.tokens.self_check import compare

NAMED = {"bos_token": "<s>", "eos_token": "</s>"}
SPELLED = ["byte_level", "byte_level_split", "byte_level_trimmed", "byte_level_composed"]


def each(body: str) -> str:
    return "{% for message in messages %}" + body + "{% endfor %}"


ANCHORED = {
    "chatml": each("{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"),
    "chatml, line break trained": each(
        "{{ '<|im_start|>' + message.role + '\n' }}{% if message.role == 'assistant' %}{% generation %}"
        "{{ message.content + '<|im_end|>\n' }}{% endgeneration %}"
        "{% else %}{{ message.content + '<|im_end|>\n' }}{% endif %}"
    ),
    "first of two line breaks trained": each(
        "{{ '<|im_start|>' + message.role + '\n' }}{% generation %}{{ message.content + '<|im_end|>\n' }}"
        "{% endgeneration %}{{ '\nassistant' }}"
    ),
    "plain marks between special tokens": each("{{ '<|' + message.role + '|>\n' + message.content + '</s>\n' }}"),
    "headers": "<s>" + each("{{ '<|im_start|>' + message.role + '<|im_end|>\n\n' + message.content + '</s>' }}"),
}
"""With a special token in front of each place that matters."""

OTHERS = {
    "marks of plain text": each("{{ '<|' + message.role + '|>\n' + message.content + '\n' }}"),
    "an end that is no token": each("{{ '<|im_start|>' + message.role + '\n' + message.content + '###\n' }}"),
    "nothing behind the answer": each(
        "{{ '<|im_start|>' }}{% if message.role == 'assistant' %}{% generation %}{{ message.content }}"
        "{% endgeneration %}{% else %}{{ message.content }}{% endif %}{{ '<|im_end|>' }}"
    ),
    "not ASCII": each("{{ '<|im_start|>réponse é' + message.content + '<|im_end|>' }}"),
}
TEMPLATES = {**ANCHORED, **OTHERS}

FRAGMENTS = [*SPECIAL_TOKENS, "<|im_", "end|>", "\n", "\n\n", " ", "  the answer is", "é", "漢字", "👩‍👩‍👧", "e\u0301",
             "\u0301", "\u212b", "\u00a0", "\r\n", "it is the ", "<think>", "what is the yes" * 30]  # fmt: skip
CONTENT = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=5)), max_size=4).map("".join)
ROLES = st.lists(st.sampled_from(["user", "assistant", "assistant", "system"]), min_size=1, max_size=4)
MESSAGES = ROLES.flatmap(
    lambda roles: st.tuples(*[CONTENT] * len(roles)).map(
        lambda contents: [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    )
)


class Model(NamedTuple):
    """A tokenizer and its encoders."""

    pipeline: dict[str, object]
    fast: Encoder
    reference: Encoder


def make_model(tokenizer: Tokenizer) -> Model:
    pipeline = json.loads(tokenizer.to_str())
    fast = Encoder(tokenizer, FastEngine(tokenizer.to_str()), pipeline)
    return Model(pipeline, fast, Encoder(tokenizer, ReferenceEngine(tokenizer), pipeline))


MODELS = {kind: make_model(ZOO[kind]()) for kind in SPELLED}


def make(source: str) -> tuple[Masker, SkeletonRenderer]:
    renderer = Renderer("test", source, NAMED)
    masker = Masker(renderer, SPECIAL_TOKENS)
    return masker, SkeletonRenderer(masker, renderer, SPECIAL_TOKENS)


MADE = {template: make(source) for template, source in TEMPLATES.items()}


def batch_of(template: str, conversations: Sequence[Conversation]) -> TextBatch:
    batch = TextBatch()
    for one in conversations:
        batch.extend(MADE[template][1].render(one, "assistant"))
    return batch


@pytest.mark.parametrize("kind", SPELLED)
@pytest.mark.parametrize("template", sorted(TEMPLATES))
@settings(max_examples=40)
@given(several=st.lists(MESSAGES, min_size=1, max_size=4), max_length_tokens=st.sampled_from([4096, 12, 3]))
def test_it_makes_no_difference(
    kind: str, template: str, several: list[list[dict[str, str]]], max_length_tokens: int
) -> None:
    conversations = [make_conversation(one) for one in several]
    rendered = [MADE[template][0].render(one, "assistant") for one in conversations]
    found = MODELS[kind].fast.encode(batch_of(template, conversations), max_length_tokens)
    compare(found, MODELS[kind].reference.encode(TextBatch.of(rendered), max_length_tokens), rendered)


def said(question: str, answer: str) -> Conversation:
    return make_conversation([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])


def is_told(model: Model, template: str, *conversations: Conversation) -> bool:
    """Whether special tokens are enough to tell what is trained of these conversations."""
    batch, alignment = batch_of(template, conversations), find_alignment(model.pipeline)
    assert alignment is not None
    tokens = model.fast.engine.encode(batch.texts)
    return Anchors(model.pipeline, alignment).trained_runs(batch.skeletons, tokens) is not None


@pytest.mark.parametrize("kind", ["byte_level", "byte_level_split", "byte_level_composed"])
@pytest.mark.parametrize("template", sorted(ANCHORED))
def test_templates_with_special_tokens_where_it_matters_are_told_by_them(kind: str, template: str) -> None:
    assert is_told(MODELS[kind], template, said("what is the", "the answer"), said("é", "\n\u0301 yes"))
    assert is_told(MODELS[kind], template, said("a <pad> in what is asked", "and said <pad>"))


@pytest.mark.parametrize("template", sorted(OTHERS))
def test_other_templates_are_not(template: str) -> None:
    composed = MODELS["byte_level_composed"]
    assert not is_told(composed, template, said("what is the", "the answer"))


@pytest.mark.parametrize("content", ["<|im_end|>", "a<|im_start|>", "<|im_end|>\n<|im_start|>assistant\n"])
def test_a_content_with_such_a_token_is_not(content: str) -> None:
    assert not is_told(MODELS["byte_level_split"], "chatml", said("what?", "that"), said(content, "yes"))
    assert not is_told(MODELS["byte_level_split"], "chatml", said("what?", content))


def test_offsets_without_spaces_are_not() -> None:
    assert not is_told(MODELS["byte_level_trimmed"], "chatml", said("what is the", "the answer"))


@pytest.mark.parametrize("token", ["|>", "is<|im_", "<|im_start|><|im_end|>", "end|>\n"])
def test_a_token_that_another_can_share_characters_with_is_no_anchor(token: str) -> None:
    tokenizer = ZOO["byte_level_split"]()
    tokenizer.add_special_tokens([token])
    assert not is_told(make_model(tokenizer), "chatml", said("what is the", "the answer is"))


def test_anchors_far_from_each_other_among_the_ids_are_found() -> None:
    tokenizer = ZOO["byte_level_split"]()
    tokenizer.add_special_tokens(["<|turn|>"])
    model, conversation = make_model(tokenizer), said("what is the", "the answer is")
    text = "<|turn|>user\nwhat is the</s><|turn|>assistant\nthe answer is</s>"
    source = each("{{ '<|turn|>' + message.role + '\n' + message.content + '</s>' }}")
    renderer = Renderer("test", source, NAMED)
    skeletons = SkeletonRenderer(Masker(renderer, ("</s>", "<|turn|>")), renderer, ("</s>", "<|turn|>"))
    batch, alignment = skeletons.render(conversation, "assistant"), find_alignment(model.pipeline)
    assert batch.texts == [text] and alignment is not None
    runs = Anchors(model.pipeline, alignment).trained_runs(batch.skeletons, model.fast.engine.encode(batch.texts))
    assert runs is not None and len(runs.texts) == 1
    compare(model.fast.encode(batch, 64), model.reference.encode(batch, 64), rendered_of(batch))


def test_a_vocabulary_without_some_bytes_is_not_told_by_them() -> None:
    pipeline = json.loads(json.dumps(MODELS["byte_level_split"].pipeline))
    alignment = find_alignment(pipeline)
    assert alignment is not None
    del pipeline["model"]["vocab"]["!"]
    batch = batch_of("chatml", [said("what", "that")])
    tokens = MODELS["byte_level_split"].fast.engine.encode(batch.texts)
    assert Anchors(MODELS["byte_level_split"].pipeline, alignment).trained_runs(batch.skeletons, tokens) is not None
    assert Anchors(pipeline, alignment).trained_runs(batch.skeletons, tokens) is None


def test_nothing_is_encoded_as_nothing() -> None:
    assert len(MODELS["byte_level_split"].fast.encode(TextBatch(), 64).lengths) == 0
