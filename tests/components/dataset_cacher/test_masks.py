"""Ids and masks, token for token, against an independent reference and against what is right in plain words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.dataset_cacher import reference
from components.dataset_cacher.workbench import SPECIAL_TOKENS
from tunewright.dataset_cacher.conversations import make_conversation
from tunewright.dataset_cacher.encoding import Encoder
from tunewright.dataset_cacher.masking import Masker, Rule, TrainOn, Unmaskable
from tunewright.dataset_cacher.rendering import Renderer, RenderingFailed
from tunewright.dataset_cacher.templates import BUILT_IN_TEMPLATES
from tunewright.dataset_cacher.tokenizer_files import read_tokenizer_files

TEMPLATES = {template.name: template.source for template in BUILT_IN_TEMPLATES}

FRAGMENTS = [*SPECIAL_TOKENS, "<|assistant|>\n", "<|user|>\n", "Assistant: ", "\n", "\n\n", " ", "  the answer is", "é",
             "漢字", "🎉👩‍👩‍👧", "\u0301", "\u00a0", "{{ 1 }}", "{% raw %}", "it is the "]  # fmt: skip
CONTENT = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=6)), max_size=6).map("".join)
ROLES = st.sampled_from(["system", "user", "assistant"])
MESSAGES = st.lists(st.fixed_dictionaries({"role": ROLES, "content": CONTENT}), min_size=1, max_size=6)


class Engine:
    """Everything from messages to ids and labels, for one template."""

    def __init__(self, model: Path, source: str) -> None:
        files = read_tokenizer_files(model, lambda _: "")
        self.encoder = Encoder(files)
        self.masker = Masker(Renderer("test", source, files.named_tokens), self.encoder.special_tokens)

    def labels(
        self, messages: Any, train_on: TrainOn = "assistant", max_length_tokens: int = 4096
    ) -> tuple[list[int], list[int]]:
        """What the cache would hold."""
        rendered = self.masker.render(make_conversation(messages), train_on)
        encoded = next(self.encoder.encode([rendered], max_length_tokens))
        ids = encoded.ids.tolist()
        labels = [-100] * len(ids)
        for start, end in encoded.spans.reshape(-1, 2).tolist():
            labels[start:end] = ids[start:end]
        return ids, labels

    def trained(self, messages: Any, train_on: TrainOn = "assistant") -> list[str]:
        """Each stretch of text that counts in the loss."""
        rendered = self.masker.render(make_conversation(messages), train_on)
        return [rendered.text[start:end] for start, end in rendered.spans]


@pytest.fixture(scope="module")
def engines(model: Path) -> dict[str, Engine]:
    return {name: Engine(model, source) for name, source in TEMPLATES.items()}


@pytest.mark.parametrize("template", sorted(TEMPLATES))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=MESSAGES, max_length_tokens=st.integers(2, 80), last_only=st.booleans())
def test_ids_and_labels_are_those_of_the_slow_reference(
    template: str, engines: dict[str, Engine], messages: Any, max_length_tokens: int, last_only: bool
) -> None:
    engine = engines[template]
    expected = reference.labels_of(template, messages, engine.encoder._tokenizer, max_length_tokens, last_only)
    train_on: TrainOn = "last_assistant" if last_only else "assistant"
    assert engine.labels(messages, train_on, max_length_tokens) == expected


TWO_TURNS = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "one?"},
    {"role": "assistant", "content": "first answer."},
    {"role": "user", "content": "two?"},
    {"role": "assistant", "content": "second answer."},
]


@pytest.mark.parametrize(
    ("template", "text", "trained"),
    [
        (
            "tulu",
            "<|system|>\nbe kind\n<|user|>\none?\n<|assistant|>\nfirst answer.</s>\n"
            "<|user|>\ntwo?\n<|assistant|>\nsecond answer.</s>",
            ["first answer.</s>", "second answer.</s>"],
        ),
        (
            "zephyr",
            "<|system|>\nbe kind</s>\n<|user|>\none?</s>\n<|assistant|>\nfirst answer.</s>\n"
            "<|user|>\ntwo?</s>\n<|assistant|>\nsecond answer.</s>\n",
            ["first answer.</s>\n", "second answer.</s>\n"],
        ),
        (
            "simple_chat",
            "System: be kind\n\nUser: one?\n\nAssistant: first answer.\n\nUser: two?\n\nAssistant: second answer.</s>",
            ["first answer.", "second answer.</s>"],
        ),
        (
            "chatml",
            "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\none?<|im_end|>\n"
            "<|im_start|>assistant\nfirst answer.<|im_end|>\n<|im_start|>user\n"
            "two?<|im_end|>\n<|im_start|>assistant\nsecond answer.<|im_end|>\n",
            ["first answer.<|im_end|>\n", "second answer.<|im_end|>\n"],
        ),
    ],
)  # fmt: skip
def test_the_published_formats_render_and_train_as_written_here(
    template: str, text: str, trained: list[str], engines: dict[str, Engine]
) -> None:
    engine = engines[template]
    assert engine.masker.render(make_conversation(TWO_TURNS), "assistant").text == text
    assert engine.trained(TWO_TURNS) == trained
    assert engine.trained(TWO_TURNS, "last_assistant") == trained[-1:]
    assert engine.trained(TWO_TURNS, "all") == [text]


def test_a_message_can_be_taken_out_of_training(engines: dict[str, Engine]) -> None:
    messages = [{**message, "train": message["content"] != "first answer."} for message in TWO_TURNS]
    assert engines["tulu"].trained(messages) == ["second answer.</s>"]
    assert "".join(engines["chatml"].trained(messages, "all")) == engines["chatml"].masker.render(
        make_conversation(TWO_TURNS), "all"
    ).text.replace("first answer.", "")


def test_two_answers_in_a_row_are_both_trained_though_prefixes_differ(engines: dict[str, Engine]) -> None:
    messages = [*TWO_TURNS[1:3], {"role": "assistant", "content": "and more."}]
    assert engines["tulu"].trained(messages) == ["first answer.</s>", "and more.</s>"]


def test_generation_marks_are_taken_at_their_word(model: Path) -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'assistant' %}A: {% generation %}{{ m.content }}{{ eos_token }}"
        "{% endgeneration %}{% else %}{{ m.role }}: {{ m.content }}{% endif %}\n{% endfor %}"
    )
    engine = Engine(model, source)
    assert engine.masker.rule is Rule.MARKS
    assert engine.trained(TWO_TURNS) == ["first answer.</s>", "second answer.</s>"]
    assert engine.trained(TWO_TURNS, "last_assistant") == ["second answer.</s>"]


def test_a_template_that_changes_contents_is_masked_by_what_it_made_of_them(model: Path) -> None:
    source = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content.split('</think>')[-1] | trim }}"
        "{% if m.role == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
    )
    engine = Engine(model, source)
    assert engine.masker.rule is Rule.STAND_INS
    messages = [{"role": "user", "content": " hi "}, {"role": "assistant", "content": "hm</think>  the answer "}] * 2
    assert engine.trained(messages) == ["the answer<|im_end|>", "the answer<|im_end|>"]


def test_a_template_whose_frame_depends_on_the_answer_is_not_guessed_at(model: Path) -> None:
    source = "{% for m in messages %}{{ m.content | length }}:{{ m.content }};{% endfor %}"
    with pytest.raises(Unmaskable, match="message 5"):
        Engine(model, source).trained(TWO_TURNS, "last_assistant")


def test_characters_of_ours_in_a_text_do_not_move_the_mask(engines: dict[str, Engine], model: Path) -> None:
    ours = "\ufdd0content0\ufdd1 \ufdd0open0\ufdd1 \ufdd0close0\ufdd1\ufdd0"
    messages = [{"role": "user", "content": ours}, {"role": "assistant", "content": f"\ufdd1{ours}"}]
    assert engines["simple_chat"].trained(messages) == [f"\ufdd1{ours}</s>"]
    source = "{% for m in messages %}{{ m.role }}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    assert Engine(model, source).trained(messages) == [ours, f"\ufdd1{ours}"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ raise_exception('only two roles here') }}", "only two roles here"),
        ("{{ strftime_now('%d') }}", "differ from day to day"),
        ("{{ messages[0].missing.more }}", "no attribute 'missing'"),
        ("{{ messages.append(1) }}", "unsafe"),
    ],
)
def test_what_a_template_refuses_comes_back_in_its_own_words(source: str, words: str) -> None:
    with pytest.raises(RenderingFailed, match=words):
        Renderer("test", source, {}).render(TWO_TURNS)


def test_a_date_with_a_fixed_fallback_takes_the_fallback() -> None:
    source = "{% if strftime_now is defined %}{{ strftime_now('%d') }}{% else %}26 Jul 2024{% endif %}"
    assert Renderer("test", source, {}).render(TWO_TURNS) == "26 Jul 2024"


def test_json_in_a_template_is_not_escaped_and_blocks_are_trimmed() -> None:
    source = (
        "{% for m in messages %}\n    {% if loop.index > 1 %}{% break %}{% endif %}\n{{ m | tojson }}\n{% endfor %}"
    )
    text = Renderer("test", source, {}).render([{"role": "user", "content": "<é>"}] * 2)
    assert text == '{"role": "user", "content": "<é>"}\n'
