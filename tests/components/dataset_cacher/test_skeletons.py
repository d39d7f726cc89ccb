"""A skeleton renders what its template and masker would, or is not made."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.dataset_cacher.chat.conversations import Conversation, make_conversation
from tunewright.dataset_cacher.chat.masking import Masker, Rendered, TrainOn, Unmaskable
from tunewright.dataset_cacher.chat.rendering import Renderer, RenderingFailed
from tunewright.dataset_cacher.chat.skeletons import SkeletonRenderer
from tunewright.dataset_cacher.chat.templates import BUILT_IN_TEMPLATES
from tunewright.dataset_cacher.chat.texts import TextBatch
from tunewright.dataset_cacher.tokens.layout import rendered_of

NAMED = {"bos_token": "<s>", "eos_token": "</s>"}
SPECIAL = ("<s>", "</s>", "<|im_end|>")


def each(body: str) -> str:
    """A template with `body` for each message."""
    return "{% for message in messages %}" + body + "{% endfor %}"


COPYING = {
    "plus": each("{{ '<' + message['role'] + '>' + message['content'] + '</s>' }}"),
    "outputs": each("{{ message.role }}: {{ message.content }}{% if loop.last %}{{ eos_token }}{% endif %}\n"),
    "trimmed": each("{{ '[' + message['role'] + ']' + message['content'] | trim + '<|im_end|>' }}"),
    "stripped": each("{{ message.role }}={{ message.content.strip() }};"),
    "variable": each("{% set content = '<' + message.content %}{% if loop.first %}"
                     "{% set content = bos_token + content %}{% endif %}{{ content + '>' }}"),
    "namespace": "{% set all = namespace(text='') %}" + each("{% set all.text = all.text + message.content %}")
                 + "{{ all.text }}",
    "unless empty": each("{% if message.content %}{{ message.content }}</s>{% else %}nothing{% endif %}"),
    "is empty": each("{{ 'nothing' if message.content == '' else message.content }}|"),
    "a text": each("{% if message.content is string %}{{ message.content }}{% else %}{{ 1 / 0 }}{% endif %},"),
    "not none": each("{% if message.content is not none %}{{ message.content | default('') }}{% endif %}</s>"),
    "marks": each("{% if message.role == 'assistant' %}{% generation %}{{ message.content }}</s>{% endgeneration %}"
                  "{% else %}{{ message.content }}\n{% endif %}"),
    "joined": "{{ messages | map(attribute='content') | join('</s>') }}",
    "twice": each("{{ message.content }}/{{ message.content }}\n"),
    "nothing between": each("{{ message.content }}"),
}  # fmt: skip

LOOKING = {
    "contains": each("{% if 'a' in message.content %}A{% endif %}{{ message.content }}</s>"),
    "contained": each("{% if message.content in 'ab' %}B{% endif %}{{ message.content }}</s>"),
    "split": each("{{ message.content.split('a')[-1] }}</s>"),
    "length": each("{{ message.content | length }}{{ message.content }}</s>"),
    "upper": each("{{ message.content | upper }}</s>"),
    "slice": each("{{ message.content[:1] }}</s>"),
    "trimmed behind a format": each("{{ ('%s ' % message.content) | trim }}</s>"),
    "trimmed behind a method": each("{{ '{} '.format(message.content).strip() }}</s>"),
    "trimmed behind a join": each("{{ [message.content, ' '] | join | trim }}</s>"),
    "trimmed behind a tilde": each("{{ (message.content ~ ' ') | trim }}</s>"),
    "trimmed behind a block": each("{% set text %}{{ message.content }} {% endset %}{{ text | trim }}</s>"),
    "trimmed in a block": each("{% filter trim %} {{ message.content }} {% endfilter %}</s>"),
    "macro": "{% macro show(text) %}{{ text }} {% endmacro %}" + each("{{ show(message.content) | trim }}</s>"),
    "compared": each("{% if message.content > 'b' %}>{% endif %}{{ message.content }}</s>"),
    "equal": each("{% if message.content == 'a' %}={% endif %}{{ message.content }}</s>"),
    "default of the empty": each("{{ message.content | default('none', true) }}</s>"),
    "trimmed of letters": each("{{ message.content | trim('a') }}</s>"),
    "empty when trimmed": each("{% if message.content | trim %}{{ message.content }}{% else %}-{% endif %}</s>"),
    "letters": each("{% for letter in message.content %}{{ letter }}.{% endfor %}</s>"),
    "changed": each("{% if loop.changed(message.content) %}!{% endif %}{{ message.content }}</s>"),
    "json": each("{{ message | tojson }}</s>"),
    "shown": each("{{ message }}</s>"),
    "key": "{% set names = {'a': 'one'} %}" + each("{{ names.get(message.content, message.content) }}</s>"),
    "times": each("{{ message.content * 2 }}</s>"),
    "replaced": each("{{ message.content.replace('a', 'b') }}</s>"),
    "sorted": each("{{ [message.content, 'b'] | sort | first }}{{ message.content }}</s>"),
}  # fmt: skip

TEMPLATES = {**COPYING, **LOOKING, **{template.name: template.source for template in BUILT_IN_TEMPLATES}}

FRAGMENTS = ["", " ", "a", "b", "ab", "\n", "</s>", "<|im_end|>", "</think>", "<think>b", "nothing", "é",
             "\ufdd20\ufdd3", "Assistant: ", "<|assistant|>\n"]  # fmt: skip
CONTENT = st.lists(st.sampled_from(FRAGMENTS), max_size=4).map("".join)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "assistant"]), "content": CONTENT}),
    min_size=1,
    max_size=5,
)


def make(source: str) -> tuple[Masker, SkeletonRenderer]:
    renderer = Renderer("test", source, NAMED)
    masker = Masker(renderer, SPECIAL)
    return masker, SkeletonRenderer(masker, renderer, SPECIAL)


MADE = {name: make(source) for name, source in TEMPLATES.items()}


def outcome(render: Any, conversation: Conversation, train_on: TrainOn) -> list[Rendered] | str:
    try:
        found = render(conversation, train_on)
    except (RenderingFailed, Unmaskable) as error:
        return f"{type(error).__name__}: {error}"
    return rendered_of(found) if isinstance(found, TextBatch) else [found]


@pytest.mark.parametrize("template", sorted(TEMPLATES))
@settings(max_examples=25)
@given(messages=MESSAGES, train_on=st.sampled_from(["assistant", "last_assistant", "all"]), untrained=st.booleans())
def test_it_makes_no_difference(template: str, messages: Any, train_on: TrainOn, untrained: bool) -> None:
    masker, skeletons = MADE[template]
    if untrained:
        messages = [{**messages[0], "train": False}, *messages[1:]]
    conversation = make_conversation(messages)
    assert outcome(skeletons.render, conversation, train_on) == outcome(masker.render, conversation, train_on)


@pytest.mark.parametrize("template", sorted(COPYING))
@settings(max_examples=25)
@given(several=st.lists(MESSAGES, min_size=1, max_size=4), train_on=st.sampled_from(["assistant", "all"]))
def test_several_are_filled_as_each_is_rendered_once_their_skeletons_are_known(
    template: str, several: list[Any], train_on: TrainOn
) -> None:
    masker, skeletons = make(COPYING[template])
    messages = [message for one in several for message in one]
    roles, contents = tuple(one["role"] for one in messages), [one["content"] for one in messages]
    columns = (roles, contents, list(accumulate(map(len, several))))
    assert skeletons.fill(*columns, train_on) is None
    expected = [outcome(skeletons.render, make_conversation(one), train_on) for one in several]
    found = skeletons.fill(*columns, train_on)
    if found is not None:  # None where the template makes nothing of one of them, or nothing that can be masked
        assert [[one] for one in rendered_of(found)] == expected
        assert expected == [outcome(masker.render, make_conversation(one), train_on) for one in several]


def test_what_is_known_of_some_roles_is_used_for_all_that_have_them() -> None:
    _, skeletons = make(COPYING["plus"])
    skeletons.render(spoken("one", "two"), "assistant")
    found = skeletons.fill(("user", "assistant") * 2, ["a", "b", "c", "d"], [2, 4], "assistant")
    assert found is not None and found.texts == ["<user>a</s><assistant>b</s>", "<user>c</s><assistant>d</s>"]
    assert skeletons.fill(("user", "assistant") * 2, ["a", "b", "c", ""], [2, 4], "assistant") is None
    assert skeletons.fill(("user", "user"), ["a", "b"], [2], "assistant") is None


def spoken(question: str, answer: str) -> Conversation:
    return make_conversation([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])


def is_run_again(source: str, then: Conversation) -> bool:
    """Whether the template is run for a conversation after it was run for another one."""
    masker, skeletons = make(source)
    outcome(skeletons.render, spoken("one", "two"), "assistant")
    seen: list[Conversation] = []

    def render(conversation: Conversation, _: TrainOn) -> Rendered:
        seen.append(conversation)
        return Rendered("", ())

    masker.render = render  # type: ignore[method-assign, assignment]
    skeletons.render(then, "assistant")
    return bool(seen)


@pytest.mark.parametrize("template", sorted(COPYING.keys() - {"twice", "nothing between", "joined", "namespace"}))
def test_a_template_that_only_copies_contents_is_not_run_again_for_the_same_roles(template: str) -> None:
    assert not is_run_again(COPYING[template], spoken("three", "four "))


@pytest.mark.parametrize("template", sorted(LOOKING))
def test_a_template_that_looks_at_contents_is_run_for_each_conversation(template: str) -> None:
    assert is_run_again(LOOKING[template], spoken("three", "four "))


def test_other_roles_and_empty_contents_have_skeletons_of_their_own() -> None:
    assert is_run_again(COPYING["unless empty"], spoken("", "two"))


@pytest.mark.parametrize("name", ["tulu", "zephyr", "simple_chat", "chatml"])
def test_the_common_templates_are_copied(name: str) -> None:
    assert not is_run_again(TEMPLATES[name], spoken("three", "four"))
