"""Which characters of a rendered conversation count in the loss: the answers, each with its end of turn.

Where a template lets it be told, an answer starts after what the template renders to ask for it and ends with what it
renders up to and including it (open-instruct's rule). Where it does not, the answer is found by putting a text in its
place that occurs nowhere else. A template that marks its answers with `{% generation %}` is taken at its word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import count
from typing import Literal

from tunewright.dataset_cacher.conversations import Conversation
from tunewright.dataset_cacher.rendering import Marks, Renderer, RenderingFailed

CharSpan = tuple[int, int]
"""Half-open, in characters of the rendered text."""

TrainOn = Literal["assistant", "last_assistant", "all"]

ANSWERER = "assistant"

_PROBE = Conversation(
    tuple({"role": role, "content": f"{role}{turn}"} for turn in (1, 2) for role in ("user", ANSWERER))
)


class Unmaskable(ValueError):
    """It cannot be told which characters are the answer."""


class Rule(Enum):
    """How answers are found in what a template renders."""

    MARKS = "generation marks of the template"
    PREFIXES = "prefixes of the conversation, rendered"
    STAND_INS = "stand-ins for the contents"


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, with what counts in the loss."""

    text: str
    spans: tuple[CharSpan, ...]
    """In order, without overlap."""


class Masker:
    """Renders conversations with one template and finds what is trained in them."""

    def __init__(self, renderer: Renderer, special_tokens: Sequence[str]) -> None:
        self._renderer = renderer
        self.rule = self._find_rule()
        self._turn_ends = self._find_turn_ends(special_tokens)

    def render(self, conversation: Conversation, train_on: TrainOn) -> Rendered:
        """Text and spans of `conversation`. Raises RenderingFailed, and Unmaskable where spans cannot be told."""
        text = self._renderer.render(conversation.messages)
        if train_on == "all":
            left_out = [self._content_span(conversation, text, index) for index in sorted(conversation.untrained)]
            return Rendered(text, _without((0, len(text)), left_out))
        answers = conversation.indexes_of(ANSWERER)
        wanted = set(answers[-1:] if train_on == "last_assistant" else answers) - conversation.untrained
        spans = self._answer_spans(conversation, text, answers, wanted) if wanted else []
        return Rendered(text, _joined(spans))

    def _answer_spans(
        self, conversation: Conversation, text: str, answers: list[int], wanted: set[int]
    ) -> list[CharSpan]:
        if self.rule is Rule.MARKS:
            marks = (_text_not_in(text, "open"), _text_not_in(text, "close"))
            marked = _marked_spans(self._renderer.render_marked(conversation.messages, marks), marks, text)
            if wanted == set(answers):
                return marked
            if len(marked) != len(answers):
                raise Unmaskable("the template's generation marks are not one for each answer")
            return [span for span, answer in zip(marked, answers, strict=True) if answer in wanted]
        find = self._span_by_prefixes if self.rule is Rule.PREFIXES else self._span_by_stand_in
        return [find(conversation, text, index) for index in sorted(wanted)]

    def _span_by_prefixes(self, conversation: Conversation, text: str, index: int) -> CharSpan:
        """Open-instruct's rule; by a stand-in where this conversation breaks it, as two answers in a row can."""
        messages = conversation.messages
        try:
            header = self._renderer.render(messages[:index], add_generation_prompt=True) if index else ""
            through = text if index == len(messages) - 1 else self._renderer.render(messages[: index + 1])
        except RenderingFailed:  # the whole conversation could be rendered: its beginning alone may be refused
            return self._span_by_stand_in(conversation, text, index)
        if not (text.startswith(through) and through.startswith(header)):
            return self._span_by_stand_in(conversation, text, index)
        return len(header), len(through)

    def _span_by_stand_in(self, conversation: Conversation, text: str, index: int) -> CharSpan:
        """The content, and the end of turn right behind it."""
        start, end = self._content_span(conversation, text, index)
        turn_end = next((token for token in self._turn_ends if text.startswith(token, end)), "")
        return start, end + len(turn_end)

    def _content_span(self, conversation: Conversation, text: str, index: int) -> CharSpan:
        """Where the content of message `index` is, whatever the template made of it. Empty where it left it out.

        Raises Unmaskable where the text around it depends on the content.
        """
        stand_in = _text_not_in(text, "content")
        message = {**conversation.messages[index], "content": stand_in}
        messages = (*conversation.messages[:index], message, *conversation.messages[index + 1 :])
        before, found, after = self._renderer.render(messages).partition(stand_in)
        if not found and before == text:
            return 0, 0
        fits = len(before) + len(after) <= len(text) and text.startswith(before) and text.endswith(after)
        if not found or not fits or stand_in in after:
            raise Unmaskable(f"what the template renders around message {index + 1} depends on what that says")
        return len(before), len(text) - len(after)

    def _find_rule(self) -> Rule:
        """Decided once for a template, so that equal answers are masked alike in every conversation."""
        if self._renderer.has_generation_marks:
            return Rule.MARKS
        try:
            text = self._renderer.render(_PROBE.messages)
            for index in _PROBE.indexes_of(ANSWERER):
                header = self._renderer.render(_PROBE.messages[:index], add_generation_prompt=True)
                through = self._renderer.render(_PROBE.messages[: index + 1])
                starts_with_content = text.startswith(_PROBE.messages[index]["content"], len(header))
                if not (text.startswith(through) and through.startswith(header) and starts_with_content):
                    return Rule.STAND_INS
        except RenderingFailed:
            return Rule.STAND_INS
        return Rule.PREFIXES

    def _find_turn_ends(self, special_tokens: Sequence[str]) -> tuple[str, ...]:
        """The special token that this template puts behind the last answer: its end of turn."""
        try:
            text = self._renderer.render(_PROBE.messages)
            _, end = self._content_span(_PROBE, text, len(_PROBE.messages) - 1)
        except (RenderingFailed, Unmaskable):
            return ()
        found = [token for token in special_tokens if token and text.startswith(token, end)]
        return tuple(sorted(found, key=len, reverse=True)[:1])


def _text_not_in(text: str, name: str) -> str:
    """Something that `text` does not hold, between noncharacters of Unicode: most often the first try.

    It begins with a character that it does not have again, so that it cannot be found across its own border.
    """
    return next(one for number in count() if (one := f"\ufdd0{name}{number}\ufdd1") not in text)


def _marked_spans(marked: str, marks: Marks, text: str) -> list[CharSpan]:
    """The places of the marks of `marked` in `text`, which is the same without them."""
    spans: list[CharSpan] = []
    plain = ""
    for number, part in enumerate(marked.split(marks[0])):
        inside, closed, behind = part.partition(marks[1])
        if bool(number) != bool(closed):
            raise Unmaskable("the template has generation blocks inside one another")
        if number:
            spans.append((len(plain), len(plain) + len(inside)))
        plain += inside + behind
    if plain != text:
        raise Unmaskable("the template renders something else when its generation marks are asked for")
    return spans


def _without(whole: CharSpan, left_out: list[CharSpan]) -> tuple[CharSpan, ...]:
    spans, start = [], whole[0]
    for span in sorted(left_out):
        spans.append((start, span[0]))
        start = max(start, span[1])
    return _joined([*spans, (start, whole[1])])


def _joined(spans: list[CharSpan]) -> tuple[CharSpan, ...]:
    """Only those that hold something."""
    return tuple(span for span in spans if span[0] < span[1])
