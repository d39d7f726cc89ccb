"""Whether an answer is the expected one: where it is in the text, and what does not count in the comparison. Pure."""

from __future__ import annotations

import re
import string

from tunewright.contracts.experiment import EvaluateSpec

_NUMBER = re.compile(r"\$?(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def find_answer(text: str, settings: EvaluateSpec) -> str | None:
    """The part of `text` that is compared, or None where the text has no such part: that is never right."""
    if settings.answer_after is not None:
        _, found, answer = text.rpartition(settings.answer_after)
        return answer if found else None
    if settings.answer_pattern is not None:
        matches = list(re.finditer(settings.answer_pattern, text))
        return matches[-1].group(1 if matches[-1].re.groups else 0) if matches else None
    return text


def normalized(answer: str, settings: EvaluateSpec) -> str:
    """`answer` without what does not count. In this order, each where it is asked for:

    `numbers`: no thousands separators, no `$` before, no zeros at the end of a fraction: `$1,050.00` is `1050`.
    `case`: lower case. `punctuation`: no ASCII punctuation, that of numbers included. `whitespace`: each run of white
    space is one space, and there is none at the ends.
    """
    rules = settings.normalize
    if "numbers" in rules:
        answer = _NUMBER.sub(_plain_number, answer)
    if "case" in rules:
        answer = answer.lower()
    if "punctuation" in rules:
        answer = answer.translate(_NO_PUNCTUATION)
    return " ".join(answer.split()) if "whitespace" in rules else answer


def _plain_number(found: re.Match[str]) -> str:
    whole, fraction = found.group(1).replace(",", ""), found.group(2) or ""
    return whole + fraction.rstrip("0").rstrip(".")


def compared(text: str, settings: EvaluateSpec) -> str | None:
    """What of `text` is compared, normalized; None where it has no answer."""
    answer = find_answer(text, settings)
    return None if answer is None else normalized(answer, settings)
