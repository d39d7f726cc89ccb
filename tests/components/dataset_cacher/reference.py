"""The mask rules once more, slowly: what is right for every template, and what open-instruct's algorithm gives."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Encoding, Tokenizer

from components.dataset_cacher.published_formats import ASKING, FORMATS, Message, Scene, text_of

Labels = tuple[list[int], list[int]]
"""`input_ids` and `labels`."""

CharSpan = tuple[int, int]

TokenSpans = list[tuple[int, int, int]]
"""Message, start, end."""


def right_labels(
    template: str,
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    eos: str,
    max_length_tokens: int,
    last_only: bool = False,
) -> Labels:
    """A token is trained where it overlaps what a wanted answer says: its content, its end of turn."""
    answers = [index for index, one in enumerate(messages) if one["role"] == "assistant"]
    spans = said_spans(template, messages, eos)
    wanted = [spans[index] for index in (answers[-1:] if last_only else answers) if index in spans]
    encoding = tokenizer.encode(text_of(template, messages, eos), add_special_tokens=False)
    return labels_of(encoding, wanted, max_length_tokens)


def said_spans(template: str, messages: Sequence[Message], eos: str) -> dict[int, CharSpan]:
    """Where in the text each message says what it says, by its index."""
    spans: dict[int, CharSpan] = {}
    text = ""
    for piece in FORMATS[template](Scene(messages, False, eos)):
        if piece.speaker is not None:
            start = spans[piece.speaker][0] if piece.speaker in spans else len(text)
            spans[piece.speaker] = (start, len(text) + len(piece.text))
        text += piece.text
    opening = text_of(template, messages[:1], eos)
    if template in ASKING and text.startswith(opening):
        # Nothing asks for an answer that opens the conversation: open-instruct trains from the first token.
        spans[0] = (0, len(opening))
    return spans


def open_instruct_labels(
    template: str, messages: Sequence[Message], tokenizer: Tokenizer, eos: str, max_length_tokens: int
) -> Labels | None:
    """`sft_tulu_tokenize_and_truncate_v1`, then `sft_tulu_filter_v1`: None for a row that they drop."""
    encoding = tokenizer.encode(text_of(template, messages, eos), add_special_tokens=False)
    spans = char_spans(template, messages, eos)
    if spans is not None:
        ids, labels = labels_of(encoding, spans, max_length_tokens)
    else:
        counted = counted_spans(template, messages, tokenizer, eos)
        if not all(is_its_content(messages, tokenizer, encoding, span, max_length_tokens) for span in counted):
            return None
        trained = [any(begin <= place < stop for _, begin, stop in counted) for place in range(len(encoding.ids))]
        ids, labels = labelled(encoding.ids, trained, max_length_tokens)
    return (ids, labels) if any(label != -100 for label in labels) else None


def char_spans(template: str, messages: Sequence[Message], eos: str) -> list[CharSpan] | None:
    """Each answer from what asks for it to what is rendered through it; None where these are no prefixes."""
    text, spans = text_of(template, messages, eos), []
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            header = text_of(template, messages[:index], eos, asks=True) if index else ""
            through = text_of(template, messages[: index + 1], eos)
            if not (text.startswith(header) and text.startswith(through)):
                return None
            spans.append((len(header), len(through)))
    return spans


def counted_spans(template: str, messages: Sequence[Message], tokenizer: Tokenizer, eos: str) -> TokenSpans:
    """The same in numbers of tokens, each prefix tokenized by itself."""

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    return [
        (
            index,
            count(text_of(template, messages[:index], eos, asks=True)) if index else 0,
            count(text_of(template, messages[: index + 1], eos)),
        )
        for index, message in enumerate(messages)
        if message["role"] == "assistant"
    ]


def is_its_content(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    encoding: Encoding,
    span: tuple[int, int, int],
    max_length_tokens: int,
) -> bool:
    """Whether a counted span is neither too narrow nor too wide, as far as its text can tell."""
    index, start, end = span
    content: str = messages[index]["content"]
    if start >= max_length_tokens:
        return True
    said = tokenizer.decode(encoding.ids[start : min(end, max_length_tokens)], skip_special_tokens=False)
    if end > max_length_tokens:
        return content.startswith(said.lstrip()[: len(content)])
    behind = said[said.find(content) + len(content) :]
    return said.lstrip().startswith(content) and not any(
        later["content"] and later["content"] in behind for later in messages[index + 1 :]
    )


def labels_of(encoding: Encoding, spans: Sequence[CharSpan], max_length_tokens: int) -> Labels:
    """A token is trained where its characters overlap a span that holds something."""
    held = [span for span in spans if span[0] < span[1]]
    trained = [any(start < stop and end > begin for begin, stop in held) for start, end in encoding.offsets]
    return labelled(encoding.ids, trained, max_length_tokens)


def labelled(ids: list[int], trained: list[bool], max_length_tokens: int) -> Labels:
    """Cut at the right end, -100 where not trained."""
    labels = [token if flag else -100 for token, flag in zip(ids, trained, strict=True)]
    return ids[:max_length_tokens], labels[:max_length_tokens]
