"""Whether a fast engine gives what the reference gives, token for token: asked before it is used, and while it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunewright.dataset_cacher.chat.masking import Rendered
from tunewright.dataset_cacher.chat.texts import TextBatch
from tunewright.dataset_cacher.tokens.encoding import EncodedRows, Encoder

ADVERSARIAL = (
    "", " ", "  ", "\n", "\n\n", " \n ", "\t\t\r\n", "a", " a", "a ", "A B  C   D", "don't you'll WE'RE I'd",
    "1234567890 3.14159 1,000,000 0x7f", "x" * 300, " " * 130, "\n" * 70, "=-" * 60, "snake_case CamelCase kebab-case",
    "def f(x):\n    return {'a': [1, 2, 3]}  # ok\n\n\n", "<|user|>\nhi\n<|assistant|>\nho",
    "<|im_start|>system\n<|im_end|>", "na\u00efve caf\u00e9 \u00c5se \ufb01n \u2167 \u00bd",
    "e\u0301 A\u030a \u212b \u1100\u1161\u11a8", "\u6f22\u5b57\u304b\u306a\u3002\ud55c\uad6d\uc5b4 \u0e44\u0e17\u0e22",
    "\u041f\u0440\u0438\u0432\u0435\u0442! \u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \U0001f44d\U0001f3fd e\ufe0f", "\U0001f600" * 20,
    "\u200b\u200d\u2060\ufeff", "\u00a0\u2003\u3000 x", "\x00\x01\x7f\x1b[0m", "\ufdfa\u0958\u0344",
    "a\u0300\u0301\u0302b", "\r\n\r\n\r", "http://example.org/a?b=c&d=%20#e", "\\n \\u00e9 \"q\" 'q' `q`",
    "\u2026\u2014\u2013\u2018\u2019\u201c\u201d", "\u337f\u3300", "\ufffd\ufffe",
    "\U0001d573\U0001d58a\U0001d591 \U00010348 \U0002070e", "\u0130\u0131\u017f\u212a", "-----BEGIN KEY-----",
    "\u2028\u2029\x85",
)  # fmt: skip
"""White space, digits, code, scripts, combining marks, noncharacters: where tokenizers have been seen to differ."""


@dataclass(frozen=True)
class Checked:
    """How much was compared, and found equal."""

    texts: int = 0
    tokens: int = 0


class EngineDiffers(Exception):
    """An engine gave other tokens than the reference, or tokens that cover other characters. `str` shows the text."""


def adversarial_texts(special_tokens: Sequence[str]) -> list[Rendered]:
    """Texts to compare on, with this tokenizer's special tokens in and around them; each with something trained."""
    glued = [f"{token}{text}{token}" for token in special_tokens[:4] for text in ("", " ", "a", "\n\nb ", "é")]
    texts = [*ADVERSARIAL, *glued, " ".join(ADVERSARIAL), "".join(special_tokens[:32])]
    return [Rendered(text, _thirds(text)) for text in texts]


def beginning_of(text: Rendered, num_characters: int) -> Rendered:
    """The first characters of a text, with what is trained of them."""
    spans = [(start, min(end, num_characters)) for start, end in text.spans if start < num_characters]
    return Rendered(text.text[:num_characters], tuple(spans))


def check_engine(fast: Encoder, reference: Encoder, texts: Sequence[Rendered], max_length_tokens: int) -> Checked:
    """Compare the two on `texts`. Raises EngineDiffers."""
    if not texts:
        return Checked()
    batch = TextBatch.of(texts)
    expected = reference.encode(batch, max_length_tokens)
    compare(fast.encode(batch, max_length_tokens), expected, texts)
    return Checked(len(texts), len(expected.ids))


def compare(found: EncodedRows, expected: EncodedRows, texts: Sequence[Rendered]) -> None:
    """Compare two encodings of `texts`. Raises EngineDiffers."""
    if not _are_equal(found, expected):
        differing = next(number for number in range(len(texts)) if not _are_equal(*_row(number, found, expected)))
        text = texts[differing].text
        raise EngineDiffers(repr(text if len(text) <= 80 else text[:80] + "..."))


def _row(number: int, *encoded: EncodedRows) -> tuple[EncodedRows, ...]:
    return tuple(one.take(np.asarray([number])) for one in encoded)


def _are_equal(one: EncodedRows, other: EncodedRows) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in _COMPARED)


_COMPARED = ("ids", "lengths", "spans", "num_bounds")


def _thirds(text: str) -> tuple[tuple[int, int], ...]:
    """The first and the last third: borders within words, between spaces, beside special tokens."""
    third = len(text) // 3
    return tuple(span for span in ((0, third), (len(text) - third, len(text))) if span[0] < span[1])
