"""What is trained of a conversation, in plain words, for every template and for templates that strangers bring."""

from __future__ import annotations

from typing import Any

import pytest

from components.dataset_cacher.workbench import SPECIAL_TOKENS
from tunewright.dataset_cacher.chat.conversations import make_conversation, tools_of
from tunewright.dataset_cacher.chat.masking import Masker, Rule, TrainOn, Unmaskable
from tunewright.dataset_cacher.chat.rendering import Renderer, RenderingFailed
from tunewright.dataset_cacher.chat.templates import BUILT_IN_TEMPLATES

TEMPLATES = {template.name: template.source for template in BUILT_IN_TEMPLATES}


class Maskers:
    """Text and spans for one template."""

    def __init__(self, source: str, special_tokens: tuple[str, ...] = SPECIAL_TOKENS, eos: str = "</s>") -> None:
        self.masker = Masker(Renderer("test", source, {"eos_token": eos}), special_tokens)

    def trained(self, messages: Any, train_on: TrainOn = "assistant", tools: Any = None) -> list[str]:
        """Each stretch of text that counts in the loss."""
        rendered = self.masker.render(make_conversation(messages, tools_of({"tools": tools})), train_on)
        return [rendered.text[start:end] for start, end in rendered.spans]

    def text(self, messages: Any, tools: Any = None) -> str:
        """The whole conversation."""
        return self.masker.render(make_conversation(messages, tools_of({"tools": tools})), "assistant").text


@pytest.fixture(scope="module")
def engines() -> dict[str, Maskers]:
    return {name: Maskers(source) for name, source in TEMPLATES.items()}


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
    template: str, text: str, trained: list[str], engines: dict[str, Maskers]
) -> None:
    engine = engines[template]
    assert engine.text(TWO_TURNS) == text
    assert engine.trained(TWO_TURNS) == trained
    assert engine.trained(TWO_TURNS, "last_assistant") == trained[-1:]
    assert engine.trained(TWO_TURNS, "all") == [text]


def test_a_message_can_be_taken_out_of_training(engines: dict[str, Maskers]) -> None:
    messages = [{**message, "train": message["content"] != "first answer."} for message in TWO_TURNS]
    assert engines["tulu"].trained(messages) == ["second answer.</s>"]
    assert "".join(engines["chatml"].trained(messages, "all")) == engines["chatml"].text(TWO_TURNS).replace(
        "first answer.", ""
    )


def test_two_answers_in_a_row_are_both_trained_though_prefixes_differ(engines: dict[str, Maskers]) -> None:
    messages = [*TWO_TURNS[1:3], {"role": "assistant", "content": "and more."}]
    assert engines["tulu"].trained(messages) == ["first answer.</s>", "and more.</s>"]


def test_generation_marks_are_taken_at_their_word() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'assistant' %}A: {% generation %}{{ m.content }}{{ eos_token }}"
        "{% endgeneration %}{% else %}{{ m.role }}: {{ m.content }}{% endif %}\n{% endfor %}"
    )
    engine = Maskers(source)
    assert engine.masker.rule is Rule.MARKS
    assert engine.trained(TWO_TURNS) == ["first answer.</s>", "second answer.</s>"]
    assert engine.trained(TWO_TURNS, "last_assistant") == ["second answer.</s>"]


def test_a_template_that_changes_contents_is_masked_by_what_it_made_of_them() -> None:
    source = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content.split('</think>')[-1] | trim }}"
        "{% if m.role == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
    )
    engine = Maskers(source)
    assert engine.masker.rule is Rule.STAND_INS
    messages = [{"role": "user", "content": " hi "}, {"role": "assistant", "content": "hm</think>  the answer "}] * 2
    assert engine.trained(messages) == ["the answer<|im_end|>", "the answer<|im_end|>"]


def test_a_template_whose_frame_depends_on_the_answer_is_not_guessed_at() -> None:
    source = "{% for m in messages %}{{ m.content | length }}:{{ m.content }};{% endfor %}"
    with pytest.raises(Unmaskable, match="message 5"):
        Maskers(source).trained(TWO_TURNS, "last_assistant")


def test_characters_of_ours_in_a_text_do_not_move_the_mask(engines: dict[str, Maskers]) -> None:
    ours = "\ufdd0content0\ufdd1 \ufdd0open0\ufdd1 \ufdd0close0\ufdd1\ufdd0"
    messages = [{"role": "user", "content": ours}, {"role": "assistant", "content": f"\ufdd1{ours}"}]
    assert engines["simple_chat"].trained(messages) == [f"\ufdd1{ours}</s>"]
    source = "{% for m in messages %}{{ m.role }}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    assert Maskers(source).trained(messages) == [ours, f"\ufdd1{ours}"]


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


THINKING = [
    {"role": "user", "content": "one?"},
    {"role": "assistant", "content": "<think>hm</think>\nfirst"},
    {"role": "user", "content": "two?"},
    {"role": "assistant", "content": "<think>so</think>\nsecond"},
]
FIRST, SECOND = "<think>hm</think>\nfirst", "<think>so</think>\nsecond"


KEPT_OF_THINKING = {
    "simple_concat_with_space": [f" {FIRST}", f" {SECOND}</s>"],
    "simple_concat_with_new_line": [f"\n{FIRST}", f"\n{SECOND}</s>"],
    "simple_chat": [FIRST, f"{SECOND}</s>"],
    "assistant_message_only": [FIRST, SECOND],
    "zephyr": [f"{FIRST}</s>\n", f"{SECOND}</s>\n"],
    "olmo": [f"{FIRST}<|im_end|>", f"{SECOND}</s>"],
    "olmo_old": [f"{FIRST}<|im_end|>", f"{SECOND}</s>"],
    "tulu": [f"{FIRST}</s>", f"{SECOND}</s>"],
    "tulu_thinker": [f"{FIRST}</s>", f"{SECOND}</s>"],
    "tulu_thinker_r1_style": ["\nfirst</s>", "\nsecond</s>"],
    "olmo_thinker": [f"{FIRST}<|im_end|>", f"{SECOND}</s>"],
    "olmo_thinker_no_think_7b": [f"{FIRST}<|im_end|>", f"{SECOND}</s>"],
    "olmo_thinker_remove_intermediate_thinking": ["first<|im_end|>", f"{SECOND}</s>"],
    "olmo_thinker_no_think_sft_tokenization": [f"{FIRST}<|im_end|>", f"{SECOND}</s>"],
    "olmo_thinker_rlzero": [FIRST, SECOND],
    "olmo_thinker_code_rlzero": [FIRST, SECOND],
    "r1_simple_chat": [FIRST, SECOND],
    "r1_simple_chat_postpend_think": [FIRST, SECOND],
    "r1_simple_chat_postpend_think_orz_style": [FIRST, SECOND],
    "r1_simple_chat_postpend_think_tool_vllm": [FIRST, SECOND],
    "qwen_instruct_user_boxed_math": [f"{FIRST}<|im_end|>\n", f"{SECOND}<|im_end|>\n"],
    "chatml": [f"{FIRST}<|im_end|>\n", f"{SECOND}<|im_end|>\n"],
}
"""What counts in the loss of the conversation above, by template."""


@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_what_a_template_keeps_of_an_answer_is_trained_with_its_end_of_turn(
    template: str, engines: dict[str, Maskers]
) -> None:
    assert engines[template].trained(THINKING) == KEPT_OF_THINKING[template]
    assert engines[template].trained(THINKING, "last_assistant") == KEPT_OF_THINKING[template][-1:]


def test_an_end_of_turn_is_trained_whole_though_the_tokenizer_has_no_token_for_it() -> None:
    maskers = Maskers(TEMPLATES["olmo_thinker"], special_tokens=("</s>",))
    assert maskers.trained(THINKING) == [f"{FIRST}<|im_end|>", f"{SECOND}</s>"]


def test_a_question_that_begins_like_an_end_of_turn_is_not_trained() -> None:
    maskers = Maskers("{% for m in messages %}{{ m.content }}{% if loop.last %}</s>{% endif %}{% endfor %}")
    messages = [{"role": role, "content": f"</s>{role}"} for role in ("user", "assistant", "user", "assistant")]
    assert maskers.trained(messages) == ["</s>assistant", "</s>assistant</s>"]


# In the manner of Qwen 3: thinking apart from the content, that of earlier turns taken out, tools named and called.
QWEN = """\
{%- if tools %}{{- '<|im_start|>system\\n# Tools\\n' }}
    {%- for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>
{% endif %}
{%- set ns = namespace(last_query=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last_query = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {%- set content = m.content if m.content is defined else '' %}
        {%- set thinking = m.reasoning_content if m.reasoning_content is defined else '' %}
        {%- if '</think>' in content %}
            {%- set thinking = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.last_query and (loop.last or thinking) %}
            {{- '<think>\\n' + thinking + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- content }}
        {%- for call in m.tool_calls or [] %}
            {{- '<tool_call>\\n' + (call.function | tojson) + '\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif m.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
CALLED = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
CALLING = [
    {"role": "user", "content": "1 + 2?"},
    {"role": "assistant", "content": None, "reasoning": "I add.", "tool_calls": [CALL]},
    {"role": "tool", "content": "3"},
    {"role": "assistant", "content": "It is 3."},
]


def test_thinking_is_trained_where_it_is_rendered_and_not_where_it_is_taken_out() -> None:
    trained = Maskers(QWEN).trained(THINKING)
    assert trained == ["first<|im_end|>", "<think>\nso\n</think>\n\nsecond<|im_end|>"]


def test_thinking_in_a_field_of_its_own_is_trained_under_any_name_for_it() -> None:
    for name in ("reasoning_content", "thinking", "reasoning"):
        messages = [{"role": "user", "content": "one?"}, {"role": "assistant", "content": "1", name: "hm"}]
        assert Maskers(QWEN).trained(messages)[0].startswith("<think>\nhm\n</think>\n\n1<|im_end|>")


def test_calls_of_tools_are_trained_without_a_content_and_answers_of_tools_are_not() -> None:
    trained = Maskers(QWEN).trained(CALLING)
    assert trained[0] == f"<think>\nI add.\n</think>\n\n{CALLED}<|im_end|>"
    assert "".join(trained[1:]).startswith("<think>\n\n</think>\n\nIt is 3.<|im_end|>")
    assert Maskers(QWEN).trained(CALLING, "last_assistant") == trained[1:]


def test_a_call_that_the_template_insists_on_is_found_all_the_same() -> None:
    strict = (
        "{% for m in messages %}{% if m.role == 'tool' and not messages[loop.index0 - 1].tool_calls %}"
        "{{ raise_exception('no call') }}{% endif %}{% endfor %}"
    )
    assert Maskers(strict + QWEN).trained(CALLING) == Maskers(QWEN).trained(CALLING)


def test_a_call_is_not_half_trained_where_it_cannot_be_told_what_asks_for_it() -> None:
    strict = "{% if not messages[1].tool_calls %}{{ raise_exception('no call') }}{% endif %}"
    with pytest.raises(Unmaskable, match="message 2"):
        Maskers(strict + QWEN).trained(CALLING)


def test_a_call_ends_with_its_own_token() -> None:
    source = (
        "{% for m in messages %}<|start|>{{ m.role }}\n{% if m.tool_calls %}{{ m.tool_calls | tojson }}<|eom|>"
        "{% else %}{{ m.content | trim }}<|eot|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
    )
    messages = [CALLING[0], {"role": "assistant", "tool_calls": "sum(1, 2)"}, *CALLING[2:]]
    trained = Maskers(source, ("<|start|>", "<|eom|>", "<|eot|>")).trained(messages)
    assert trained == ['"sum(1, 2)"<|eom|>', "It is 3.<|eot|>"]


@pytest.mark.parametrize("tools", [[ADD], ADD, '[{"type": "function", "function": {"name": "add"}}]'])
def test_tools_reach_the_template_however_they_are_written(tools: Any) -> None:
    assert '# Tools\n{"type": "function", "function": {"name": "add"' in Maskers(QWEN).text(CALLING, tools)


@pytest.mark.parametrize("tools", [None, "", " ", "null", "[]", '""', [], {}, float("nan")])
def test_no_tools_are_no_tools_however_they_are_written(tools: Any) -> None:
    assert Maskers(QWEN).text(CALLING, tools) == Maskers(QWEN).text(CALLING)


def test_the_functions_of_olmo_are_rendered_and_its_calls_are_trained(engines: dict[str, Maskers]) -> None:
    messages = [
        {"role": "system", "content": "be kind", "functions": "add(a, b)"},
        {"role": "user", "content": "1 + 2?"},
        {"role": "assistant", "content": None, "function_calls": "add(1, 2)"},
        {"role": "environment", "content": "3"},
        {"role": "assistant", "content": "It is 3."},
    ]
    assert engines["olmo"].text(messages) == (
        "<|im_start|>system\nbe kind <functions>add(a, b)</functions><|im_end|>\n<|im_start|>user\n1 + 2?<|im_end|>\n"
        "<|im_start|>assistant\n<function_calls>add(1, 2)</function_calls><|im_end|>\n"
        "<|im_start|>environment\n3<|im_end|>\n<|im_start|>assistant\nIt is 3.</s>"
    )
    trained = ["<function_calls>add(1, 2)</function_calls><|im_end|>", "It is 3.</s>"]
    assert engines["olmo"].trained(messages) == engines["olmo_thinker"].trained(messages) == trained


def test_one_answer_in_several_generation_blocks_is_still_one_answer() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "--{% generation %}</s>{% endgeneration %}{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
    )
    messages = [{"role": role, "content": role} for role in ("user", "assistant")] * 2
    assert Maskers(source).trained(messages) == ["assistant", "</s>"] * 2
    assert Maskers(source).trained(messages, "last_assistant") == ["assistant"]
