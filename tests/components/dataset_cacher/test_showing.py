"""`show`: the text of rows, token by token, on a terminal and as a page that no row can break out of."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from components.dataset_cacher.workbench import Workbench
from components.dataset_cacher.written_caches import WrittenCache, rows_of, write_cache
from tunewright.contracts.errors import CacheCorrupted, NotFound
from tunewright.dataset_cacher.commands.show import show as show_command
from tunewright.dataset_cacher.preparation.shards import CachedRow
from tunewright.dataset_cacher.views.row_page import render_rows
from tunewright.dataset_cacher.views.showing import read_rows, tokens_of, without_controls

EVIL = "</span></div><script>alert(1)</script>\"'&amp;<img src=x onerror=alert(2)>"


@pytest.fixture
def written(bench: Workbench) -> WrittenCache:
    """Three rows: plain, evil, and of characters that are several tokens."""
    texts = [
        [("<|user|>\nwhy?\n", False), ("so.</s>", True)],
        [(EVIL, False), (EVIL, True)],
        [("é 漢字 ", False), ("🎉 \x1b[2J\x07 done", True)],
    ]
    return write_cache(bench, rows_of(bench, texts))


def show(bench: Workbench, written: WrittenCache, *arguments: str) -> str:
    """What the command prints, in this process."""
    result = CliRunner().invoke(
        show_command, [written.digest, "--cache-root", str(bench.cache_root), *arguments], catch_exceptions=False
    )
    assert result.exit_code == 0
    return result.stdout


class Spans(HTMLParser):
    """The tokens of a page of rows, and every tag there is."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.rows: list[list[tuple[str, str, str]]] = []
        self._open: tuple[str, str] | None = None
        self._text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        named = dict(attrs)
        if tag == "div" and named.get("class") == "row":
            self.rows.append([])
        if tag == "span":
            self._open, self._text = (named.get("class") or "", named["title"] or ""), ""

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "span" and self._open:
            self.rows[-1].append((self._text, *self._open))
            self._open = None


@pytest.fixture(scope="session")
def tokenizer(model: Path) -> Tokenizer:
    """The bench's."""
    return Tokenizer.from_file(str(model / "tokenizer.json"))


@given(text=st.text(max_size=40))
def test_the_texts_of_tokens_are_the_text_of_the_row(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    row = CachedRow(np.asarray(ids, np.uint16), np.asarray([0, len(ids)][: 2 * bool(ids)], np.uint32), 0, 0)
    tokens = tokens_of(row, tokenizer)
    assert [token.id for token in tokens] == ids
    assert "".join(token.text for token in tokens) == tokenizer.decode(ids, skip_special_tokens=False)
    assert all(token.is_trained for token in tokens)


def test_a_row_cut_inside_a_character_still_shows(bench: Workbench, tokenizer: Tokenizer) -> None:
    (row,) = rows_of(bench, [[("🎉", True)]])
    assert len(row.ids) > 2
    tokens = tokens_of(CachedRow(row.ids[:2], np.asarray([0, 2], np.uint32), 0, 0), tokenizer)
    assert "".join(token.text for token in tokens) == tokenizer.decode(row.ids[:2].tolist())


def test_a_page_of_rows_has_each_token_with_its_id_and_place_and_no_tag_of_a_row(
    bench: Workbench, written: WrittenCache, tmp_path: Path
) -> None:
    path = tmp_path / "rows.html"
    show(bench, written, "--row", "0", "--count", "9", "--html", str(path))
    text = path.read_text(encoding="utf-8")
    page = Spans(text)
    assert page.tags <= {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "code", "b", "div", "span"}
    assert "<script" not in text and "<img" not in text
    assert len(page.rows) == 3
    for shown, row in zip(page.rows, written.rows, strict=True):
        assert [title for _, _, title in shown] == [
            f"id {one}, position {at}" for at, one in enumerate(row.ids.tolist())
        ]
        trained = [at for at, (_, css, _) in enumerate(shown) if "trained" in css.split()]
        assert trained == list(range(int(row.spans[0]), int(row.spans[1])))
    assert "".join(token for token, _, _ in page.rows[1]) == EVIL * 2
    special = [token for token, css, _ in page.rows[0] if "special" in css.split()]
    assert special == ["</s>"]


def test_ids_are_on_the_page_only_where_they_are_asked_for(tokenizer: Tokenizer, written: WrittenCache) -> None:
    row = written.rows[0]
    shown = [(0, row, tokens_of(row, tokenizer))]
    assert "<sub>" not in render_rows(written.digest, shown, with_ids=False)
    assert f"<sub>{row.ids[0]}</sub>" in render_rows(written.digest, shown, with_ids=True)


def test_show_with_tokens_gives_every_token_and_its_id(bench: Workbench, written: WrittenCache) -> None:
    plain = show(bench, written, "--tokens")
    assert [int(number) for number in re.findall(r"\[(\d+)\]", plain)] == written.rows[0].ids.tolist()
    assert re.sub(r"\[\d+\]", "", plain) == "<|user|>\nwhy?\nso.</s>\n"
    coloured = show(bench, written, "--tokens", "--color", "always")
    assert coloured.count("\x1b[48;5;236m") == 2 * (len(written.rows[0].ids) // 2)
    document = json.loads(show(bench, written, "--tokens", "--json"))
    assert [token["id"] for token in document["tokens"]] == document["input_ids"]
    assert document["tokens"][-1] == {"id": 1, "text": "</s>", "trained": True, "special": True}


def test_several_rows_are_json_lines(bench: Workbench, written: WrittenCache) -> None:
    lines = show(bench, written, "--row", "1", "--count", "2", "--json").splitlines()
    assert [json.loads(line)["row"] for line in lines] == [1, 2]
    with pytest.raises(NotFound, match="row 3: the cache has 3 rows"):
        show(bench, written, "--row", "3")


def test_a_row_cannot_command_a_terminal(bench: Workbench, written: WrittenCache) -> None:
    coloured = show(bench, written, "--row", "2", "--color", "always")
    assert "\x1b[2J" not in coloured and "\x07" not in coloured and "␛[2J␇" in coloured
    assert "\x1b[2J" in show(bench, written, "--row", "2")  # piped: the bytes as they are
    assert without_controls("a\tb\n\x9b\x7f") == "a\tb\n\N{REPLACEMENT CHARACTER}\N{SYMBOL FOR DELETE}"


def test_a_shard_with_a_flipped_bit_is_not_shown(written: WrittenCache) -> None:
    shard = written.path / "tokens-00000.arrow"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(CacheCorrupted, match=r"tokens-00000.arrow: sha256 is"):
        read_rows(written.path, written.manifest, 0, 1)
