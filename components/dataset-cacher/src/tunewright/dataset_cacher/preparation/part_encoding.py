"""One part of a source to tokens: rows read, rendered, encoded and masked, in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
import orjson
from tokenizers import Tokenizer

from tunewright.contracts.dataset_plugins import Row
from tunewright.contracts.errors import BrokenPlugin, Problem
from tunewright.dataset_cacher.chat.masking import Masker, Rendered, Unmaskable
from tunewright.dataset_cacher.chat.rendering import Renderer, RenderingFailed
from tunewright.dataset_cacher.chat.skeletons import Filled, SkeletonRenderer, Text
from tunewright.dataset_cacher.inputs import Inputs
from tunewright.dataset_cacher.preparation.drops import TEMPLATE_UNMASKABLE
from tunewright.dataset_cacher.preparation.keeping import statuses_of
from tunewright.dataset_cacher.preparation.parts import DROP_REASONS, FIRST_DROP, KEPT, NOT_TAKEN, EncodedPart, PartTask
from tunewright.dataset_cacher.reading.readers import BadRow, place_of, read_blocks
from tunewright.dataset_cacher.reading.rows import QuickReader, RowReader, make_quick_reader, make_row_reader
from tunewright.dataset_cacher.tokens.encoding import EncodedRows, Encoder, load_tokenizer, special_tokens_of
from tunewright.dataset_cacher.tokens.engines import REFERENCE, FastEngine, ReferenceEngine
from tunewright.dataset_cacher.tokens.self_check import (
    Checked,
    EngineDiffers,
    adversarial_texts,
    beginning_of,
    check_engine,
)

CHUNK_ROWS = 2048
CHUNK_CHARACTERS = 1 << 21
"""What is encoded in one call: the batch is spread over all cores, and held in memory."""

CHECKED_ROWS = 2
"""Rows of each part that are also rendered by the template and encoded by the reference."""

CHECKED_CHARACTERS = 1 << 10
"""Of each of them so many are encoded a second time: the reference is slow, and some rows are very long."""

SHOWN_PROBLEMS = 5

OnRows = Callable[[int, int], None]
"""Told how many more rows and tokens are encoded."""


@dataclass(frozen=True)
class Tools:
    """What turns rows into tokens. The same inputs make the same tools in any process."""

    tokenizer: Tokenizer
    encoder: Encoder
    reference: Encoder
    masker: Masker
    renderer: SkeletonRenderer
    special_tokens: tuple[str, ...]
    max_length_tokens: int

    @classmethod
    def make(cls, inputs: Inputs, engine: str) -> Tools:
        """The tools with the engine of this name, which must take the tokenizer."""
        tokenizer = load_tokenizer(inputs.tokenizer)
        tokenizer_json = tokenizer.to_str()
        pipeline = orjson.loads(tokenizer_json)
        reference = Encoder(tokenizer, ReferenceEngine(tokenizer), pipeline)
        encoder = reference if engine == REFERENCE else Encoder(tokenizer, FastEngine(tokenizer_json), pipeline)
        special_tokens = special_tokens_of(tokenizer, inputs.tokenizer)
        renderer = Renderer(inputs.template.name, inputs.template.source, inputs.tokenizer.named_tokens)
        masker = Masker(renderer, special_tokens)
        skeletons = SkeletonRenderer(masker, renderer, special_tokens)
        max_length_tokens = inputs.request.dataset.max_length_tokens
        return cls(tokenizer, encoder, reference, masker, skeletons, special_tokens, max_length_tokens)

    def encode(self, texts: Sequence[Text]) -> EncodedRows:
        """Rows of texts."""
        return self.encoder.encode(texts, self.max_length_tokens)

    def check(self, texts: Sequence[Text] | None = None) -> Checked:
        """Compare the engine with the reference, on adversarial texts if none are given. Raises EngineDiffers."""
        if self.encoder is self.reference:
            return Checked()
        chosen = adversarial_texts(self.special_tokens) if texts is None else texts
        return check_engine(self.encoder, self.reference, chosen, self.max_length_tokens)


@dataclass(frozen=True)
class Readers:
    """What reads the rows of a source."""

    thorough: RowReader
    quick: QuickReader | None


class PartEncoder:
    """Encodes parts, one after the other."""

    def __init__(self, inputs: Inputs, tools: Tools) -> None:
        self.inputs = inputs
        self._tools = tools
        self._readers: dict[int, Readers] = {}

    def encode(self, task: PartTask, on_rows: OnRows = lambda rows, tokens: None) -> EncodedPart:
        """The rows that the task wants. After the first bad row the others are only looked at.

        Raises EngineDiffers where a row that is compared is not what the reference makes of it.
        """
        part = _PartInWork(self.inputs, self._tools, self._readers_of(task.source), task)
        encoded, per_row = [], self.inputs.sequences_per_example
        for chunk in part.chunks():
            rows = self._tools.encode(chunk.texts)
            part.check(chunk)
            statuses = statuses_of(rows, per_row)
            part.status[chunk.indexes] = statuses
            is_kept = np.repeat(statuses == KEPT, per_row)
            encoded.append(rows if is_kept.all() else rows.take(np.flatnonzero(is_kept)))
            on_rows(len(statuses), len(rows.ids))
        if part.num_problems or not encoded:
            encoded = [self._tools.encode([])]
        kept = EncodedRows.concatenate(encoded)
        return EncodedPart(part.status, kept, part.num_problems, tuple(part.first_problems))

    def _readers_of(self, source: int) -> Readers:
        if source not in self._readers:
            found = self.inputs.sources[source]
            self._readers[source] = Readers(make_row_reader(found), make_quick_reader(found))
        return self._readers[source]


@dataclass(frozen=True)
class _WantedBlock:
    """Rows to encode that follow each other."""

    indexes: Sequence[int]
    """Of each row in the part."""

    numbers: Sequence[int]
    """For messages."""

    rows: Sequence[Row | BadRow]


@dataclass(frozen=True)
class _Chunk:
    """Rows as text."""

    indexes: list[int]
    """Of each row in the part."""

    texts: list[Text]
    """The conversations of all of them: as many of each as a row of the source gives."""


class _PartInWork:
    """What is known of a part while its rows go by."""

    def __init__(self, inputs: Inputs, tools: Tools, readers: Readers, task: PartTask) -> None:
        self.status = np.full(task.part.num_rows, NOT_TAKEN, dtype=np.uint8)
        self.num_problems = 0
        self.first_problems: list[Problem] = []
        self._tools = tools
        self._task = task
        self._readers = readers
        self._source = inputs.sources[task.source]
        self._template = inputs.template.name
        self._per_row = inputs.sequences_per_example
        self._to_check: list[tuple[int, int, Rendered]] = []
        self._num_checked = 0

    def chunks(self) -> Iterator[_Chunk]:
        """The wanted rows as text, as many together as are encoded at once."""
        chunk, characters = _Chunk([], []), 0
        for some in self._texts():
            chunk.indexes.extend(some.indexes)
            chunk.texts.extend(some.texts)
            characters += sum([len(one.text) for one in some.texts])
            if len(chunk.indexes) >= CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
                yield chunk
                chunk, characters = _Chunk([], []), 0
        if chunk.indexes:
            yield chunk

    def check(self, chunk: _Chunk) -> None:
        """Compare what is to be compared and is in `chunk` with the reference."""
        if self._tools.encoder is self._tools.reference or not self._to_check:
            return
        for index, side, expected in self._to_check:
            found = chunk.texts[chunk.indexes.index(index) * self._per_row + side]
            if (found.text, found.spans) != expected:
                raise EngineDiffers(f"rendered without the template: {found.text[:80]!r}")
        self._tools.check([beginning_of(one, CHECKED_CHARACTERS) for _, _, one in self._to_check])
        self._to_check.clear()

    def _texts(self) -> Iterator[_Chunk]:
        """The wanted rows as text. After the first row that cannot be used the others are only looked at."""
        for block in self._wanted_blocks():
            # What is compared with the reference goes row by row, and whatever else of its block.
            may_be_quick = self._num_checked >= CHECKED_ROWS and not self.num_problems
            quick = self._quick_texts(block.rows) if may_be_quick else None
            yield self._texts_by_row(block) if quick is None else _Chunk(list(block.indexes), list(quick))

    def _texts_by_row(self, block: _WantedBlock) -> _Chunk:
        chunk = _Chunk([], [])
        for index, number, content in zip(block.indexes, block.numbers, block.rows, strict=True):
            try:
                texts = self._read(content)
                if self._num_checked < CHECKED_ROWS and not self.num_problems:
                    self._to_check += [(index, side, one) for side, one in enumerate(self._expected(content))]
                    self._num_checked += 1
            except BrokenPlugin:  # a ValueError too, but no fault of the row
                raise
            except RenderingFailed as error:
                self._add_problem(number, f"chat template `{self._template}` cannot render it: {error}")
            except Unmaskable:
                self.status[index] = FIRST_DROP + DROP_REASONS.index(TEMPLATE_UNMASKABLE)
            except ValueError as error:
                self._add_problem(number, f"format `{self._source.format.name}`: {error}")
            else:
                if not self.num_problems:
                    chunk.indexes.append(index)
                    chunk.texts.extend(texts)
        return chunk

    def _wanted_blocks(self) -> Iterator[_WantedBlock]:
        """The rows to encode, some at a time."""
        file, is_wanted, start = self._source.files[self._task.file], self._task.is_wanted, 0
        for block in read_blocks(file, self._task.part):
            # There are more than were counted where the file has changed, which is found later.
            end = min(start + len(block.rows), len(self.status))
            indexes: Sequence[int] = range(start, end)
            if is_wanted is None:
                yield _WantedBlock(indexes, block.numbers[: len(indexes)], block.rows[: len(indexes)])
            else:
                wanted = is_wanted[start:end]
                numbers, rows = compress(block.numbers, wanted), compress(block.rows, wanted)
                yield _WantedBlock(list(compress(indexes, wanted)), list(numbers), list(rows))
            start = end

    def _quick_texts(self, rows: Sequence[Row | BadRow]) -> list[Filled] | None:
        """The texts of rows, where a look at them is enough, without conversations made in between."""
        if self._readers.quick is None or not self._tools.renderer.has_skeletons:
            return None
        plain = self._readers.quick(rows)
        try:
            return None if plain is None else self._tools.renderer.fill(*plain, self._source.spec.train_on)
        except UnicodeEncodeError:  # half of a surrogate pair: which row has it is found one by one
            return None

    def _read(self, content: Row | BadRow) -> Sequence[Text]:
        """The texts of one row."""
        quick = self._quick_texts([content])
        if quick is not None:
            return quick
        train_on, renderer = self._source.spec.train_on, self._tools.renderer
        return [renderer.render(one, train_on) for one in self._readers.thorough(content)]

    def _expected(self, content: Row | BadRow) -> list[Rendered]:
        """The same by the template itself."""
        return [self._tools.masker.render(one, self._source.spec.train_on) for one in self._readers.thorough(content)]

    def _add_problem(self, number: int, message: str) -> None:
        self.num_problems += 1
        if len(self.first_problems) < SHOWN_PROBLEMS:
            place = place_of(self._source.files[self._task.file], number)
            self.first_problems.append(Problem(place, message))
