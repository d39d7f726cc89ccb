"""Conversations to text, exactly as transformers' `apply_chat_template` renders them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tunewright.contracts.errors import InvalidDataset
from tunewright.dataset_cacher.chat.conversations import Tools

Marks = tuple[str, str]
"""What is put before and after a generation block to find it again."""


class RenderingFailed(ValueError):
    """The template did not take a conversation. `str` is the template's or Jinja's own words."""


class GenerationTag(Extension):
    """`{% generation %}...{% endgeneration %}`: what the model says, by the template's own word."""

    tags = {"generation"}

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.marks: Marks = ("", "")
        self.was_used = False

    def parse(self, parser: Parser) -> nodes.Node:
        """A block whose text goes through `_mark`."""
        self.was_used = True
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Macro) -> str:
        before, after = self.marks
        return f"{before}{caller()}{after}"


class Renderer:
    """A compiled template with the variables transformers gives it."""

    def __init__(
        self,
        name: str,
        source: str,
        named_tokens: Mapping[str, str],
        environment: ImmutableSandboxedEnvironment | None = None,
    ) -> None:
        self.name = name
        self.source = source
        self.named_tokens = named_tokens
        self._variables: dict[str, Any] = {**named_tokens, "documents": None}
        environment = environment or make_environment()
        # Extensions are kept by their import path.
        self._tag: GenerationTag = environment.extensions[GenerationTag.identifier]  # type: ignore[assignment]
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            words = f"chat template `{name}` is not Jinja: line {error.lineno}: {error.message}"
            raise InvalidDataset(words) from None

    @property
    def has_generation_marks(self) -> bool:
        """Whether the template says itself what the model says."""
        return self._tag.was_used

    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Tools | None = None, add_generation_prompt: bool = False
    ) -> str:
        """The text of `messages`, for a model that has `tools`. Raises RenderingFailed."""
        variables = {**self._variables, "tools": None if tools is None else list(tools)}
        try:
            return self._template.render(
                messages=list(messages), add_generation_prompt=add_generation_prompt, **variables
            )
        except jinja2.UndefinedError as error:
            words = str(error)
            if "strftime_now" in words:
                words = "it asks for today's date (`strftime_now`), which would make the tokens differ from day to day"
            raise RenderingFailed(words) from None
        except Exception as error:  # a template can raise anything an expression can: TypeError, KeyError, ...
            raise RenderingFailed(str(error) or type(error).__name__) from None

    def render_marked(self, messages: Sequence[Mapping[str, Any]], marks: Marks, tools: Tools | None = None) -> str:
        """The text of `messages` with `marks` around each generation block."""
        self._tag.marks = marks
        try:
            return self.render(messages, tools)
        finally:
            self._tag.marks = ("", "")


def make_environment() -> ImmutableSandboxedEnvironment:
    """Templates come from strangers: they run in a sandbox. `strftime_now` is left out: a date is not reproducible."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    return environment


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """As transformers': Jinja's own filter would escape HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
