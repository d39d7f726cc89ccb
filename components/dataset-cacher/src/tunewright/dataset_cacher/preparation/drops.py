"""Rows that are left out of a cache: why, and how many of them are too many."""

from __future__ import annotations

from collections.abc import Mapping

from tunewright.contracts.errors import InvalidDataset, Problem

NO_TRAINED_TOKENS = "no_trained_tokens"
"""Nothing in the row counts in the loss: no answer in it, or the answer lies behind the cut."""

TEMPLATE_UNMASKABLE = "template_unmaskable"
"""It cannot be told which characters of the rendered text are the answer."""

EQUAL_ANSWERS = "equal_answers"
"""Of a pair: both sides are the same tokens, at least up to the cut, so that neither can be preferred."""

_HINTS = {
    NO_TRAINED_TOKENS: "is there an answer in the rows, and does it start before `dataset.max_length_tokens`?",
    TEMPLATE_UNMASKABLE: "what `model.chat_template` renders around an answer depends on what the answer says: "
    "choose another, or mark its answers with {% generation %}",
    EQUAL_ANSWERS: "are `chosen` and `rejected` different, and do they differ before `dataset.max_length_tokens`?",
}

FIELD = "dataset.max_dropped_fraction"


def check_dropped(dropped: Mapping[str, int], num_rows: int, limit: float) -> None:
    """Raise InvalidDataset where more than `limit` (0 to 1) of `num_rows` rows are dropped, or all of them.

    `dropped` has how many are dropped for each reason; `num_rows` counts those that were kept too.
    """
    num_dropped = sum(dropped.values())
    if not num_dropped:
        return
    by_reason = ", ".join(f"{count:,} {reason}" for reason, count in _most_first(dropped))
    hint = next((hint for reason, _ in _most_first(dropped) if (hint := _HINTS.get(reason))), "")
    if num_dropped >= num_rows:
        raise _invalid("dataset", f"no row is left to train on: {by_reason}", hint)
    if num_dropped > limit * num_rows:
        share = f"{num_dropped:,} of {num_rows:,} rows ({num_dropped / num_rows:.1%}) are dropped: {by_reason}"
        raise _invalid(
            FIELD,
            f"{share}; allowed are {limit:.1%}",
            "; ".join(filter(None, [hint, "if it is meant, raise the limit"])),
        )


def _most_first(dropped: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(((reason, count) for reason, count in dropped.items() if count), key=lambda one: (-one[1], one[0]))


def _invalid(path: str, message: str, hint: str) -> InvalidDataset:
    return InvalidDataset(f"{path}: {message}", hint, (Problem(path, message, hint),))
