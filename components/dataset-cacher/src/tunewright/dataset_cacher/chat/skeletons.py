"""Conversations rendered without running the template: what it puts around contents that it never looks at.

Most templates only copy contents into their output. For those, what is rendered of a conversation depends on its
roles alone: fixed texts with a slot for each content. Such a skeleton is found once for each sequence of roles, by
running the template on contents that refuse to be looked at; the other conversations with these roles are strings
joined. A template that does look (to cut out reasoning, say) is run for every conversation.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NoReturn

from jinja2 import Environment, nodes
from jinja2.nodes import EvalContext
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tunewright.dataset_cacher.chat.conversations import Conversation
from tunewright.dataset_cacher.chat.masking import ANSWERER, Masker, Rendered, Rule, TrainOn, Unmaskable
from tunewright.dataset_cacher.chat.rendering import Renderer, RenderingFailed, make_environment
from tunewright.dataset_cacher.chat.texts import Skeleton, TextBatch

MAX_SKELETONS = 4096
"""Sequences of roles that are remembered; conversations with others go through the template."""

# Noncharacters of Unicode enclose the number of a message, with an `s` where the content is to be stripped.
_OPEN, _CLOSE = "\ufdd2", "\ufdd3"
_SLOT = re.compile(f"{_OPEN}(\\d+)(s?){_CLOSE}")


class ContentInspected(BaseException):
    """A template looked at a content. Not an Exception: templates and filters catch those."""


class Opaque:  # noqa: PLW1641  # it refuses to be hashed, further down
    """A text that holds contents, of which a template may know nothing but whether it is empty."""

    def __init__(self, text: str, is_empty: bool | None = None, stripped: str | None = None) -> None:
        self._text = text
        self._is_empty = is_empty
        self._stripped = stripped

    @classmethod
    def content(cls, number: int, is_empty: bool) -> Opaque:
        """The content of message `number`."""
        return cls(f"{_OPEN}{number}{_CLOSE}", is_empty, f"{_OPEN}{number}s{_CLOSE}")

    def strip(self) -> Opaque:
        """What is left without white space at the ends: a single content stays one slot."""
        if self._stripped is None:
            raise ContentInspected
        return Opaque(self._stripped, None, self._stripped)

    def __str__(self) -> str:
        return self._text

    def __format__(self, specification: str) -> str:
        if specification:
            raise ContentInspected
        return self._text

    def __add__(self, other: object) -> Opaque:
        return Opaque(self._text + _text_of(other))

    def __radd__(self, other: object) -> Opaque:
        return Opaque(_text_of(other) + self._text)

    def __bool__(self) -> bool:
        if self._is_empty is None:
            raise ContentInspected
        return not self._is_empty

    def __eq__(self, other: object) -> bool:
        if other is None:
            return False
        if other == "" and self._is_empty is not None:
            return self._is_empty
        raise ContentInspected

    def __getattr__(self, name: str) -> NoReturn:
        raise ContentInspected


def _refuse(*_: object) -> NoReturn:
    raise ContentInspected


for _name in ("hash", "repr", "len", "iter", "contains", "getitem", "lt", "le", "gt", "ge", "mod", "rmod", "mul",
              "rmul", "int", "float", "index", "call", "reversed"):  # fmt: skip
    setattr(Opaque, f"__{_name}__", _refuse)


def _text_of(value: object) -> str:
    if isinstance(value, str | Opaque):
        return str(value)
    raise ContentInspected


class SkeletonRenderer:
    """Renders and masks as its masker does, by skeletons where that can make no difference."""

    def __init__(self, masker: Masker, renderer: Renderer, special_tokens: Sequence[str]) -> None:
        self._masker = masker
        self._skeletons: dict[_Key, Skeleton | None] = {}
        self._tracer: _Tracer | None = _Tracer.of(renderer, special_tokens)
        self.has_skeletons = self._tracer is not None

    def render(self, conversation: Conversation, train_on: TrainOn) -> TextBatch:
        """Text and spans of `conversation`. Raises RenderingFailed, and Unmaskable where spans cannot be told."""
        messages = conversation.messages
        contents: list[Any] = [message.get("content") for message in messages if len(message) == 2]
        if self._tracer is None or len(contents) < len(messages) or None in contents or conversation.tools:
            return TextBatch.of([self._masker.render(conversation, train_on)])
        roles = tuple([message["role"] for message in messages])
        key = (train_on, conversation.untrained, _empty_of(contents), roles)
        if key not in self._skeletons and len(self._skeletons) < MAX_SKELETONS:
            self._skeletons[key] = self._trace(self._tracer, conversation, train_on)
        skeleton = self._skeletons.get(key)
        if skeleton is None:
            return TextBatch.of([self._masker.render(conversation, train_on)])
        in_slots = skeleton.in_slots(contents)
        return TextBatch([skeleton.joined(in_slots)], [skeleton], list(map(len, in_slots)))

    def fill(
        self, roles: tuple[str, ...], contents: Sequence[str], ends: Sequence[int], train_on: TrainOn
    ) -> TextBatch | None:
        """The same for several conversations of roles and contents and nothing else, where all skeletons are known.

        `ends` tells where the messages of each end in `roles` and `contents`.
        """
        texts, skeletons, sizes = list[str](), list[Skeleton](), list[int]()
        start, any_is_empty = 0, "" in contents
        for end in ends:
            mine = contents[start:end]
            empty = _empty_of(mine) if any_is_empty else ()
            skeleton = self._skeletons.get((train_on, _NONE, empty, roles[start:end]))
            if skeleton is None:
                return None
            in_slots = skeleton.in_slots(mine)
            texts.append(skeleton.joined(in_slots))
            skeletons.append(skeleton)
            sizes.extend(map(len, in_slots))
            start = end
        return TextBatch(texts, skeletons, sizes)

    def _trace(self, tracer: _Tracer, conversation: Conversation, train_on: TrainOn) -> Skeleton | None:
        """The skeleton of conversations like this one, if there is one: tried on this one before it is believed."""
        skeleton = tracer.trace(conversation, train_on)
        if skeleton is None:
            return None
        contents = [message["content"] for message in conversation.messages]
        try:
            expected = self._masker.render(conversation, train_on)
            return skeleton if skeleton.render(contents) == expected else None
        except (RenderingFailed, Unmaskable):
            return None


_NONE: frozenset[int] = frozenset()

_Key = tuple[TrainOn, frozenset[int], tuple[int, ...], tuple[str, ...]]
"""What a skeleton depends on: what is trained, the messages that are not, and all that a template may know without
looking at contents: which are empty, and the roles."""


def _empty_of(contents: Sequence[str]) -> tuple[int, ...]:
    return tuple([number for number, content in enumerate(contents) if not content]) if "" in contents else ()


class _Tracer:
    """Runs a template on contents that refuse to be looked at."""

    def __init__(self, renderer: Renderer, masker: Masker) -> None:
        self._renderer = renderer
        self._masker = masker

    @classmethod
    def of(cls, renderer: Renderer, special_tokens: Sequence[str]) -> _Tracer | None:
        """None for a template that could look at contents behind our back."""
        environment = _make_tracing_environment()
        if _can_look_unseen(environment.parse(renderer.source)):
            return None
        tracing = Renderer(renderer.name, renderer.source, renderer.named_tokens, environment)
        try:
            return cls(tracing, Masker(tracing, special_tokens))
        except ContentInspected:
            return None

    def trace(self, conversation: Conversation, train_on: TrainOn) -> Skeleton | None:
        """The skeleton of the conversations that have these roles and the same contents empty."""
        opaque = Conversation(
            tuple(
                {**message, "content": Opaque.content(number, is_empty=not message["content"])}
                for number, message in enumerate(conversation.messages)
            ),
            conversation.untrained,
        )
        if any(_OPEN in message["role"] for message in conversation.messages):
            return None
        try:
            rendered = self._masker.render(opaque, train_on)
            if not self._is_told_by_fixed_text(opaque, rendered.text, train_on):
                return None
        except (ContentInspected, RenderingFailed, Unmaskable):
            return None
        return _skeleton_of(rendered)

    def _is_told_by_fixed_text(self, opaque: Conversation, text: str, train_on: TrainOn) -> bool:
        """Whether the masker would decide the same for any contents."""
        if train_on == "all" or self._masker.rule is Rule.MARKS:
            return True
        checks = {Rule.PREFIXES: self._has_prefixes, Rule.STAND_INS: self._has_clear_turn_end}
        is_told = checks.get(self._masker.rule)
        return is_told is not None and all(is_told(opaque, text, index) for index in opaque.indexes_of(ANSWERER))

    def _has_prefixes(self, opaque: Conversation, text: str, index: int) -> bool:
        """What surrounds the slots is compared with itself: a prefix here is one for any contents."""
        messages = opaque.messages
        header = self._renderer.render(messages[:index], add_generation_prompt=True) if index else ""
        through = self._renderer.render(messages[: index + 1])
        return text.startswith(through) and through.startswith(header)

    def _has_clear_turn_end(self, opaque: Conversation, text: str, index: int) -> bool:
        """Whether the fixed text behind the answer says if an end of turn follows, whatever the next content is."""
        slot = re.search(f"{_OPEN}{index}s?{_CLOSE}", text)
        if slot is None or len(_SLOT.findall(text)) != len({found.group() for found in _SLOT.finditer(text)}):
            return False
        behind = text[slot.end() :]
        literal = _SLOT.split(behind, maxsplit=1)[0]
        is_end = literal == behind
        return is_end or all(literal.startswith(one) or not one.startswith(literal) for one in self._masker.turn_ends)


def _skeleton_of(rendered: Rendered) -> Skeleton | None:
    literals, slots, starts, ends = [], [], [0], []
    for slot in _SLOT.finditer(rendered.text):
        literals.append(rendered.text[starts[-1] : slot.start()])
        slots.append((int(slot[1]), bool(slot[2])))
        ends.append(slot.start())
        starts.append(slot.end())
    ends.append(len(rendered.text))
    literals.append(rendered.text[starts[-1] :])
    if any(_OPEN in literal or _CLOSE in literal for literal in literals):
        return None
    fixed = [0, *accumulate(map(len, literals))]
    bounds: list[int] = []
    for place in (bound for span in rendered.spans for bound in span):
        piece = next((number for number, end in enumerate(ends) if starts[number] <= place <= end), None)
        if piece is None:  # within a slot
            return None
        bounds += fixed[piece] + place - starts[piece], piece
    spans = tuple(zip(bounds[::4], bounds[1::4], bounds[2::4], bounds[3::4], strict=True))
    return Skeleton(tuple(literals), tuple(slots), spans)


def _can_look_unseen(template: nodes.Template) -> bool:
    """Whether `template` turns contents into plain texts, in which they are no longer seen."""
    caught = (nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.AssignBlock, nodes.Concat)
    return (
        any(not _is_generation(node) for node in template.find_all(caught))
        or any(not isinstance(node.right, nodes.Const) for node in template.find_all(nodes.Mod))
        or any(node.attr in ("format", "format_map") for node in template.find_all(nodes.Getattr))
    )


def _is_generation(node: nodes.Node) -> bool:
    """A `{% generation %}` block: what it holds goes out as it is."""
    return (
        isinstance(node, nodes.CallBlock)
        and isinstance(node.call.node, nodes.ExtensionAttribute)
        and node.call.node.name == "_mark"
    )


_TOLD = {"string": True, "defined": True, "iterable": True, "sequence": True, "undefined": False, "none": False,
         "mapping": False, "number": False, "boolean": False, "integer": False, "float": False}  # fmt: skip
"""Jinja's tests whose answer is the same for every text."""

_FILTERS: dict[str, Callable[..., Opaque]] = {
    "trim": lambda content: content.strip(),
    "default": lambda content, default="": content,
    "d": lambda content, default="": content,
    "string": lambda content: content,
    "safe": lambda content: content,
}
"""What filters make of a content, with the arguments with which that can be said without looking."""


def _make_tracing_environment() -> ImmutableSandboxedEnvironment:
    """An environment in which filters and tests refuse contents, but for those that need not look."""
    environment = make_environment()
    filters: dict[str, Any] = environment.filters
    for name, function in filters.items():
        filters[name] = _guarded(function, _FILTERS.get(name))
    tests: dict[str, Any] = environment.tests
    for name, function in tests.items():
        tests[name] = _guarded(function, _answering(_TOLD[name]) if name in _TOLD else None)
    return environment


def _answering(told: bool) -> Callable[[object], bool]:
    return lambda _: told


def _guarded(function: Callable[..., Any], blind: Callable[..., Any] | None) -> Callable[..., Any]:
    """`function` for what holds no content, and for contents `blind`, which does the same without looking."""

    @functools.wraps(function)
    def guarded(*arguments: Any, **options: Any) -> Any:
        if not any(map(_holds_content, (*arguments, *options.values()))):
            result = function(*arguments, **options)
            return Opaque(result) if isinstance(result, str) and _OPEN in result else result
        own = [one for one in arguments if not isinstance(one, Environment | Context | EvalContext)]
        if blind is None or not isinstance(own[0], Opaque):
            raise ContentInspected
        try:
            return blind(*own, **options)
        except TypeError:
            raise ContentInspected from None

    return guarded


def _holds_content(value: Any) -> bool:
    return isinstance(value, Opaque) or (isinstance(value, str) and _OPEN in value)
