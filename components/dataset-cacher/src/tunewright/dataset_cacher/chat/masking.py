"""Which characters of a rendered conversation count in the loss: the answers, each with its end of turn.

Where a template lets it be told, an answer starts after what the template renders to ask for it and ends with what it
renders up to and including it (open-instruct's rule). Where it does not, the answer is found by putting a text in its
place that occurs nowhere else. A template that marks its answers with `{% generation %}` is taken at its word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import count
from typing import Any, Literal, NamedTuple

from tunewright.dataset_cacher.chat.conversations import CALL_FIELDS, REASONING_FIELDS, Conversation
from tunewright.dataset_cacher.chat.rendering import Marks, Renderer, RenderingFailed

CharSpan = tuple[int, int]
"""Half-open, in characters of the rendered text."""

NOWHERE: CharSpan = (0, 0)

TrainOn = Literal["assistant", "last_assistant", "all"]

ANSWERER = "assistant"

PUBLISHED_TURN_ENDS = ("<|im_end|>",)
"""Ends of turn that templates write whether or not the tokenizer has them as one token."""

SAID_BESIDE_CONTENT = (*CALL_FIELDS, *REASONING_FIELDS)
"""Fields of an answer that are its own words, too. What else a message has belongs to its frame."""

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


class Rendered(NamedTuple):
    """A conversation as text, with what counts in the loss."""

    text: str
    spans: tuple[CharSpan, ...]
    """In order, without overlap."""


@dataclass(frozen=True)
class _Habits:
    """What a template does, told once from a conversation of two turns, so that equal answers are masked alike."""

    asks: bool = False
    """Whether an answer begins after what is rendered to ask for it, at least the last one."""

    is_steady: bool = False
    """Whether that holds for every answer, and what is rendered up to an answer stays when the conversation goes on."""

    turn_end: str = ""
    """The token right behind an answer that is not the last message."""

    last_turn_end: str = ""
    """The token right behind an answer that is the last message."""


@dataclass(frozen=True)
class _Frame:
    """What a template renders before and after what one message says; None where it will not show."""

    before: str | None
    after: str | None

    def start_in(self, text: str) -> int | None:
        """Where the message begins in `text`, if that begins like this."""
        return len(self.before) if self.before is not None and text.startswith(self.before) else None

    def end_in(self, text: str) -> int | None:
        """Where the message ends in `text`, if that ends like this."""
        return len(text) - len(self.after) if self.after is not None and text.endswith(self.after) else None


class Masker:
    """Renders conversations with one template and finds what is trained in them."""

    def __init__(self, renderer: Renderer, special_tokens: Sequence[str]) -> None:
        self._renderer = renderer
        candidates = {token for token in (*special_tokens, *PUBLISHED_TURN_ENDS) if token}
        self._tokens = sorted(candidates, key=lambda token: (-len(token), token))
        self._habits = self._find_habits()
        self.rule = Rule.PREFIXES if self._habits.is_steady else Rule.STAND_INS
        if renderer.has_generation_marks:
            self.rule = Rule.MARKS
        self.turn_ends = tuple(sorted({self._habits.turn_end, self._habits.last_turn_end} - {""}))

    @property
    def asks(self) -> bool:
        """Whether this template's answers begin after what it renders to ask for them."""
        return self._habits.asks

    def render(self, conversation: Conversation, train_on: TrainOn) -> Rendered:
        """Text and spans of `conversation`. Raises RenderingFailed, and Unmaskable where spans cannot be told."""
        text = self._render(conversation, conversation.messages)
        if train_on == "all":
            left_out = [self._said_span(conversation, text, index) or NOWHERE for index in conversation.untrained]
            return Rendered(text, _without((0, len(text)), left_out))
        answers = conversation.indexes_of(ANSWERER)
        chosen = answers[-1:] if train_on == "last_assistant" else answers
        wanted = [index for index in chosen if index not in conversation.untrained]
        return Rendered(text, _joined(self._answer_spans(conversation, text, answers, wanted)))

    def _render(
        self, conversation: Conversation, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False
    ) -> str:
        return self._renderer.render(messages, conversation.tools, add_generation_prompt)

    def _answer_spans(
        self, conversation: Conversation, text: str, answers: list[int], wanted: list[int]
    ) -> list[CharSpan]:
        if self.rule is Rule.MARKS and wanted:
            return self._spans_by_marks(conversation, text, answers, wanted)
        find = self._span_by_prefixes if self.rule is Rule.PREFIXES else self._span_by_stand_in
        return [find(conversation, text, index) for index in wanted]

    def _spans_by_marks(
        self, conversation: Conversation, text: str, answers: list[int], wanted: list[int]
    ) -> list[CharSpan]:
        marks = (_text_not_in(text, "open"), _text_not_in(text, "close"))
        rendered = self._renderer.render_marked(conversation.messages, marks, conversation.tools)
        marked = _marked_spans(rendered, marks, text)
        if wanted == answers:
            return marked
        if len(marked) == len(answers):
            return [span for span, answer in zip(marked, answers, strict=True) if answer in wanted]
        places = [self._span_by_stand_in(conversation, text, index) for index in wanted]
        return [span for span in marked if any(start <= span[0] < end for start, end in places)]

    def _span_by_prefixes(self, conversation: Conversation, text: str, index: int) -> CharSpan:
        """Open-instruct's rule; by a stand-in where this conversation breaks it, as two answers in a row can."""
        start, end = self._asked_until(conversation, text, index), self._through(conversation, text, index)
        if start is None or end is None or end < start:
            return self._span_by_stand_in(conversation, text, index)
        return start, end

    def _span_by_stand_in(self, conversation: Conversation, text: str, index: int) -> CharSpan:
        """What the message says, and the end of turn right behind it."""
        said = self._said_span(conversation, text, index)
        if said is None:
            return NOWHERE
        start, end = said
        calls = any(name in conversation.messages[index] for name in CALL_FIELDS)
        is_last = index == len(conversation.messages) - 1
        likely = [self._habits.last_turn_end if is_last else self._habits.turn_end]
        turn_end = next((token for token in (self._tokens if calls else likely) if text.startswith(token, end)), "")
        return start, end + len(turn_end)

    def _said_span(self, conversation: Conversation, text: str, index: int) -> CharSpan | None:
        """All that message `index` says, as the template rendered it: thinking, content, calls. None if left out.

        Raises Unmaskable where the text around it depends on what it says.
        """
        frame = self._frame(conversation, text, index)
        if frame is None:
            return None
        is_answer = conversation.messages[index]["role"] == ANSWERER
        asked = self._asked_until(conversation, text, index) if is_answer and self._habits.asks else None
        starts = [one for one in (frame.start_in(text), asked) if one is not None]
        end = frame.end_in(text)
        if end is None:
            end = self._through_turn_end(conversation, text, index)
        if not starts or end is None or end < min(starts):
            raise Unmaskable(f"what the template renders around message {index + 1} depends on what that says")
        return min(starts), end

    def _frame(self, conversation: Conversation, text: str, index: int) -> _Frame | None:
        """What is rendered around a text in the place of all that message `index` says; None if that is left out."""
        message, stand_in = conversation.messages[index], _text_not_in(text, "content")
        if message["role"] == ANSWERER and any(name in message for name in SAID_BESIDE_CONTENT):
            message = {name: message[name] for name in ("role", "name") if name in message}
        said = {**message, "content": stand_in}
        messages = (*conversation.messages[:index], said, *conversation.messages[index + 1 :])
        try:
            before, found, after = self._render(conversation, messages).partition(stand_in)
        except RenderingFailed:  # a call that is answered may not be missing
            return _Frame(None, None)
        if not found:
            return None if before == text else _Frame(None, None)
        return _Frame(before, after) if stand_in not in after else _Frame(None, None)

    def _asked_until(self, conversation: Conversation, text: str, index: int) -> int | None:
        """Where what asks for answer `index` ends, if that is how `text` begins. Nothing asks for an opening answer."""
        if not index:
            return None if self._through(conversation, text, index) is None else 0
        return self._shared_beginning(conversation, text, index, add_generation_prompt=True)

    def _through(self, conversation: Conversation, text: str, index: int) -> int | None:
        """Where what is rendered of the conversation up to and including message `index` ends, if `text` begins so."""
        if index == len(conversation.messages) - 1:
            return len(text)
        return self._shared_beginning(conversation, text, index + 1, add_generation_prompt=False)

    def _through_turn_end(self, conversation: Conversation, text: str, index: int) -> int | None:
        """The same, but no further than a token that only white space follows: the end of turn."""
        end = self._through(conversation, text, index)
        spoken = text[:end].rstrip()
        return len(spoken) if end is not None and spoken.endswith(tuple(self._tokens)) else end

    def _shared_beginning(
        self, conversation: Conversation, text: str, num_messages: int, add_generation_prompt: bool
    ) -> int | None:
        try:
            beginning = self._render(conversation, conversation.messages[:num_messages], add_generation_prompt)
        except RenderingFailed:  # the whole conversation could be rendered: its beginning alone may be refused
            return None
        return len(beginning) if text.startswith(beginning) else None

    def _find_habits(self) -> _Habits:
        try:
            text = self._render(_PROBE, _PROBE.messages)
        except RenderingFailed:
            return _Habits()
        answers = _PROBE.indexes_of(ANSWERER)
        frames = [self._frame(_PROBE, text, index) or _Frame(None, None) for index in answers]
        places = [(frame.start_in(text), frame.end_in(text)) for frame in frames]
        asks = [self._is_asked_for(text, index, start) for index, (start, _) in zip(answers, places, strict=True)]
        stays = [self._through(_PROBE, text, index) is not None for index in answers]
        turn_ends = ["" if end is None else self._token_at(text, end) for _, end in places]
        return _Habits(any(asks), all(asks) and all(stays), *turn_ends)

    def _is_asked_for(self, text: str, index: int, start: int | None) -> bool:
        """Whether answer `index` of the probe, which starts at `start`, follows what is rendered to ask for it.

        White space may be between them, and where a template does render something to ask, the template's own words:
        then they are the model's to say.
        """
        asked = self._asked_until(_PROBE, text, index)
        if asked is None or start is None or asked > start:
            return False
        plain = self._shared_beginning(_PROBE, text, index, add_generation_prompt=False)
        return not text[asked:start].strip() or (plain is not None and plain < asked)

    def _token_at(self, text: str, place: int) -> str:
        return next((token for token in self._tokens if text.startswith(token, place)), "")


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
