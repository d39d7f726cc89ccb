"""Sizes and spans of a batch are those of each text, whatever it was made by."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.dataset_cacher.chat.masking import Rendered
from tunewright.dataset_cacher.chat.texts import Skeleton, TextBatch
from tunewright.dataset_cacher.tokens.layout import Layout, in_bytes, layout_of, rendered_of

SKELETONS = {
    "plain": Skeleton(("<u>", "</u><a>", "</a>"), ((0, False), (1, False)), ((10, 1, 14, 2),)),
    "not ASCII": Skeleton(("é«", "»\U0001f600", "漢"), ((0, False), (1, False)), ((0, 0, 3, 1), (4, 1, 5, 2))),
    "stripped and twice": Skeleton(
        ("", "|", "|", ""), ((1, True), (0, False), (1, False)), ((0, 0, 1, 2), (2, 2, 2, 3))
    ),
    "without slots": Skeleton(("nothing said",), (), ((8, 0, 12, 0),)),
    "untrained": Skeleton(("a", "b"), ((1, False),), ()),
}


class Made(NamedTuple):
    """One text, as it is in a batch and as it is alone."""

    batch: TextBatch
    alone: Rendered


def filled(name: str, contents: list[str]) -> Made:
    skeleton = SKELETONS[name]
    sizes = [len(content) for content in skeleton.in_slots(contents)]
    alone = skeleton.render(contents)
    return Made(TextBatch([alone.text], [skeleton], sizes), alone)


def rendered(text: str, places: tuple[int, int, int, int]) -> Made:
    """`text` with up to two spans."""
    first, second, third, fourth = sorted(place % (len(text) + 1) for place in places)
    alone = Rendered(text, tuple(span for span in ((first, second), (third, fourth)) if span[0] < span[1]))
    return Made(TextBatch.of([alone]), alone)


CONTENT = st.text(alphabet="ab \né漢\U0001f600", max_size=4)
FILLED = st.builds(filled, st.sampled_from(sorted(SKELETONS)), st.lists(CONTENT, min_size=2, max_size=2))
RENDERED = st.builds(rendered, CONTENT, st.tuples(*[st.integers(0, 9)] * 4))


def together(made: list[Made]) -> TextBatch:
    batch = TextBatch()
    for one in made:
        batch.extend(one.batch)
    return batch


def in_characters(batch: TextBatch) -> Layout:
    return layout_of(batch)


def in_utf8(batch: TextBatch) -> Layout:
    return in_bytes(layout_of(batch), batch.texts)


@pytest.mark.parametrize(("lay_out", "size"), [(in_characters, len), (in_utf8, lambda text: len(text.encode()))])
@given(made=st.lists(FILLED | RENDERED, max_size=6))
def test_a_batch_is_laid_out_as_its_texts_are(
    lay_out: Callable[[TextBatch], Layout], size: Callable[[str], int], made: list[Made]
) -> None:
    layout, first, expected = lay_out(together(made)), 0, []
    for number, (_, one) in enumerate(made):
        expected += [(number, *(first + size(one.text[:place]) for place in span)) for span in one.spans]
        first += size(one.text)
    found = (layout.spans.texts, layout.spans.starts, layout.spans.ends)
    assert list(zip(*(column.tolist() for column in found), strict=True)) == expected
    assert layout.sizes.tolist() == [size(one.text) for _, one in made]


@given(made=st.lists(FILLED | RENDERED, max_size=6))
def test_each_text_of_a_batch_is_given_back_as_it_is_alone(made: list[Made]) -> None:
    assert rendered_of(together(made)) == [one.alone for one in made]


def test_contents_go_where_the_skeleton_says() -> None:
    text, spans = SKELETONS["stripped and twice"].render([" one ", " two "])
    assert text == "two| one | two "
    assert [text[start:end] for start, end in spans] == ["two| one ", " two "]


def test_spans_that_hold_nothing_are_left_out() -> None:
    text, spans = SKELETONS["plain"].render(["why?", ""])
    assert spans == ((14, 18),) and text[14:18] == "</a>"
    empty = Skeleton(("a", "b"), ((0, False),), ((1, 0, 1, 1),))
    assert empty.render([""]).spans == () and not len(layout_of(TextBatch(["ab"], [empty], [0])).spans.texts)
