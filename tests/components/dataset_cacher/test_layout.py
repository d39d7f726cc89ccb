"""Sizes and spans of a batch in bytes are those of each text, whatever it was made by."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tunewright.dataset_cacher.chat.masking import Rendered
from tunewright.dataset_cacher.chat.skeletons import Skeleton, Text
from tunewright.dataset_cacher.tokens.layout import layout_of

SKELETONS = {
    "plain": Skeleton(("<u>", "</u><a>", "</a>"), ((0, False), (1, False)), ((10, 1, 14, 2),)),
    "not ASCII": Skeleton(("é«", "»\U0001f600", "漢"), ((0, False), (1, False)), ((0, 0, 3, 1), (4, 1, 5, 2))),
    "stripped and twice": Skeleton(
        ("", "|", "|", ""), ((1, True), (0, False), (1, False)), ((0, 0, 1, 2), (2, 2, 2, 3))
    ),
    "without slots": Skeleton(("nothing said",), (), ((8, 0, 12, 0),)),
    "untrained": Skeleton(("a", "b"), ((1, False),), ()),
}

CONTENT = st.text(alphabet="ab \né漢\U0001f600", max_size=4)
FILLED = st.builds(
    lambda name, contents: SKELETONS[name].fill(contents),
    st.sampled_from(sorted(SKELETONS)),
    st.lists(CONTENT, min_size=2, max_size=2),
)


def rendered_of(text: str, places: tuple[int, int, int, int]) -> Rendered:
    """`text` with up to two spans."""
    first, second, third, fourth = sorted(place % (len(text) + 1) for place in places)
    return Rendered(text, tuple(span for span in ((first, second), (third, fourth)) if span[0] < span[1]))


RENDERED = st.builds(rendered_of, CONTENT, st.tuples(*[st.integers(0, 9)] * 4))


@given(texts=st.lists(FILLED | RENDERED, max_size=6))
def test_a_batch_is_laid_out_as_its_texts_are(texts: list[Text]) -> None:
    layout, first, expected = layout_of(texts), 0, []
    for number, one in enumerate(texts):
        for start, end in one.spans:
            expected.append((number, *(first + len(one.text[:place].encode()) for place in (start, end))))
        first += len(one.text.encode())
    found = (layout.spans.texts, layout.spans.starts, layout.spans.ends)
    assert list(zip(*(column.tolist() for column in found), strict=True)) == expected
    assert layout.sizes.tolist() == [len(one.text.encode()) for one in texts]


def test_contents_go_where_the_skeleton_says() -> None:
    filled = SKELETONS["stripped and twice"].fill([" one ", " two "])
    assert filled.text == "two| one | two "
    assert [filled.text[start:end] for start, end in filled.spans] == ["two| one ", " two "]


def test_spans_that_hold_nothing_are_left_out() -> None:
    filled = SKELETONS["plain"].fill(["why?", ""])
    assert filled.spans == ((14, 18),) and filled.text[14:18] == "</a>"
    empty = Skeleton(("a", "b"), ((0, False),), ((1, 0, 1, 1),))
    assert empty.fill([""]).spans == () and not len(layout_of([empty.fill([""])]).spans.texts)
