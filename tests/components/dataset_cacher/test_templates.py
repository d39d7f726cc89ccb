"""The built-in templates render what was published under their names."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.dataset_cacher.published_formats import FORMATS, Message, text_of
from tunewright.dataset_cacher.chat.rendering import Renderer
from tunewright.dataset_cacher.chat.templates import BUILT_IN_TEMPLATES

TEMPLATES = {template.name: template for template in BUILT_IN_TEMPLATES}

FRAGMENTS = [
    "",
    "a b",
    "\n",
    "\n\n",
    "é",
    "'",
    '"',
    "\\",
    "{{ 1 }}",
    "<think>",
    "</think>",
    "<think>x</think>\n\n",
    "</s>",
]
ROLES = st.sampled_from(["system", "user", "assistant", "assistant", "environment", "tool"])
CONTENT = st.lists(st.sampled_from(FRAGMENTS), max_size=4).map("".join)
MESSAGES = st.lists(st.fixed_dictionaries({"role": ROLES, "content": CONTENT}), min_size=1, max_size=5)


@functools.cache
def renderer_of(name: str, eos: str) -> Renderer:
    return Renderer(name, TEMPLATES[name].source, {"eos_token": eos})


@pytest.mark.parametrize("name", sorted(TEMPLATES))
@settings(max_examples=40)
@given(messages=MESSAGES, asks=st.booleans(), eos=st.sampled_from(["</s>", "<|im_end|>"]))
def test_a_template_renders_its_published_format(name: str, messages: list[Message], asks: bool, eos: str) -> None:
    assert renderer_of(name, eos).render(messages, add_generation_prompt=asks) == text_of(name, messages, eos, asks)


def test_all_21_of_open_instruct_and_chatml_are_there_under_their_names() -> None:
    assert TEMPLATES.keys() == FORMATS.keys()
    assert len(TEMPLATES) == len(BUILT_IN_TEMPLATES) == 22


def test_every_template_says_in_one_line_what_it_is() -> None:
    assert all(10 < len(template.summary) < 90 and "\n" not in template.summary for template in BUILT_IN_TEMPLATES)
