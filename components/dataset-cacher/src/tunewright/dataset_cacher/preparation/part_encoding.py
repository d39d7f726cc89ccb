"""One part of a source to tokens: rows read, rendered, encoded and masked, in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress

import numpy as np
import orjson
from tokenizers import Tokenizer

from tunewright.contracts.dataset_plugins import Row
from tunewright.contracts.errors import BrokenPlugin, Problem
from tunewright.dataset_cacher.chat.masking import Masker, Rendered, Unmaskable
from tunewright.dataset_cacher.chat.rendering import Renderer, RenderingFailed
from tunewright.dataset_cacher.chat.skeletons import SkeletonRenderer
from tunewright.dataset_cacher.chat.texts import TextBatch
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
    compare,
)

CHUNK_ROWS = 2048
CHUNK_CHARACTERS = 1 << 22
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

    def encode(self, texts: TextBatch) -> EncodedRows:
        """Rows of texts."""
        return self.encoder.encode(texts, self.max_length_tokens)

    @property
    def are_checked(self) -> bool:
        """Whether there is anything to compare: what the reference gives is right by definition."""
        return self.encoder is not self.reference

    def check(self, texts: Sequence[Rendered]) -> Checked:
        """Compare the engine with the reference. Raises EngineDiffers."""
        return check_engine(self.encoder, self.reference, texts, self.max_length_tokens)

    def check_rows(self, rows: EncodedRows, texts: Sequence[Rendered]) -> None:
        """Compare `rows` with what the texts alone give, and the beginnings of those with what the reference gives.

        Raises EngineDiffers.
        """
        compare(rows, self.encode(TextBatch.of(texts)), texts)
        self.check([beginning_of(one, CHECKED_CHARACTERS) for one in texts])

    def check_adversarial(self) -> Checked:
        """Compare the two on texts that engines get wrong."""
        return self.check(adversarial_texts(self.special_tokens)) if self.are_checked else Checked()


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
        readers = self._readers_of(task.source)
        try:
            return self._encode(_PartInWork(self.inputs, self._tools, readers, task), on_rows)
        except UnicodeEncodeError:  # half of a surrogate pair somewhere: which row has it is found one by one
            return self._encode(_PartInWork(self.inputs, self._tools, readers, task, looks_closely=True), on_rows)

    def _encode(self, part: _PartInWork, on_rows: OnRows) -> EncodedPart:
        encoded, per_row = [], self.inputs.sequences_per_example
        for chunk in part.chunks():
            rows = self._tools.encode(chunk.texts)
            part.check(chunk, rows)
            statuses = statuses_of(rows, per_row)
            part.status[chunk.indexes] = statuses
            is_kept = np.repeat(statuses == KEPT, per_row)
            encoded.append(rows if is_kept.all() else rows.take(np.flatnonzero(is_kept)))
            on_rows(len(statuses), len(rows.ids))
        if part.num_problems or not encoded:
            encoded = [self._tools.encode(TextBatch())]
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

    def parted(self, count: int) -> tuple[_WantedBlock, _WantedBlock]:
        """The first rows, at most so many, and the others."""
        first, others = (
            _WantedBlock(self.indexes[part], self.numbers[part], self.rows[part])
            for part in (slice(count), slice(count, None))
        )
        return first, others


@dataclass(frozen=True)
class _Chunk:
    """Rows as text."""

    indexes: list[int] = field(default_factory=list)
    """Of each row in the part."""

    texts: TextBatch = field(default_factory=TextBatch)
    """The conversations of all of them: as many of each as a row of the source gives."""

    def extend(self, other: _Chunk) -> None:
        """The rows of `other` too."""
        self.indexes.extend(other.indexes)
        self.texts.extend(other.texts)


class _PartInWork:
    """What is known of a part while its rows go by."""

    def __init__(
        self, inputs: Inputs, tools: Tools, readers: Readers, task: PartTask, looks_closely: bool = False
    ) -> None:
        self.status = np.full(task.part.num_rows, NOT_TAKEN, dtype=np.uint8)
        self.num_problems = 0
        self.first_problems: list[Problem] = []
        self._tools = tools
        self._task = task
        self._readers = readers
        self._source = inputs.sources[task.source]
        self._template = inputs.template.name
        self._per_row = inputs.sequences_per_example
        self._looks_closely = looks_closely
        self._num_compared = 0
        self._to_compare: list[tuple[int, int, Rendered]] = []

    def chunks(self) -> Iterator[_Chunk]:
        """The wanted rows as text, as many together as are encoded at once."""
        chunk, characters = _Chunk(), 0
        for some in self._texts():
            chunk.extend(some)
            characters += sum(map(len, some.texts.texts))
            if len(chunk.indexes) >= CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
                yield chunk
                chunk, characters = _Chunk(), 0
        if chunk.indexes:
            yield chunk

    def check(self, chunk: _Chunk, rows: EncodedRows) -> None:
        """Compare what is to be compared and is in `chunk`, encoded as `rows`, with the template and the reference.

        Raises EngineDiffers.
        """
        if not self._tools.are_checked or not self._to_compare:
            return
        places = [chunk.indexes.index(index) * self._per_row + side for index, side, _ in self._to_compare]
        expected = [one for _, _, one in self._to_compare]
        for place, one in zip(places, expected, strict=True):
            if chunk.texts.texts[place] != one.text:
                raise EngineDiffers(f"rendered without the template: {one.text[:80]!r}")
        self._tools.check_rows(rows.take(np.asarray(places)), expected)
        self._to_compare.clear()

    def _texts(self) -> Iterator[_Chunk]:
        """The wanted rows as text. After the first row that cannot be used the others are only looked at."""
        for block in self._wanted_blocks():
            compared, others = block.parted(CHECKED_ROWS - self._num_compared)
            if compared.rows:
                yield self._texts_by_row(compared, is_compared=not self.num_problems)
            if others.rows:
                goes_by_row = self.num_problems or self._looks_closely
                quick = None if goes_by_row else self._quick_texts(others.rows)
                yield self._texts_by_row(others) if quick is None else _Chunk(list(others.indexes), quick)

    def _texts_by_row(self, block: _WantedBlock, is_compared: bool = False) -> _Chunk:
        """Row by row. What `is_compared` is also rendered by the template, to be compared when it is encoded."""
        chunk = _Chunk()
        for index, number, content in zip(block.indexes, block.numbers, block.rows, strict=True):
            try:
                texts = self._read(content)
                if self._looks_closely:
                    b"".join(map(str.encode, texts.texts))
                if is_compared and not self.num_problems:
                    self._to_compare += [(index, side, one) for side, one in enumerate(self._expected(content))]
                    self._num_compared += 1
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
                    chunk.extend(_Chunk([index], texts))
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

    def _quick_texts(self, rows: Sequence[Row | BadRow]) -> TextBatch | None:
        """The texts of rows, where a look at them is enough, without conversations made in between."""
        if self._readers.quick is None or not self._tools.renderer.has_skeletons:
            return None
        plain = self._readers.quick(rows)
        return None if plain is None else self._tools.renderer.fill(*plain, self._source.spec.train_on)

    def _read(self, content: Row | BadRow) -> TextBatch:
        """The texts of one row."""
        quick = self._quick_texts([content])
        if quick is not None:
            return quick
        texts, train_on = TextBatch(), self._source.spec.train_on
        for conversation in self._readers.thorough(content):
            texts.extend(self._tools.renderer.render(conversation, train_on))
        return texts

    def _expected(self, content: Row | BadRow) -> list[Rendered]:
        """The same by the template itself."""
        return [self._tools.masker.render(one, self._source.spec.train_on) for one in self._readers.thorough(content)]

    def _add_problem(self, number: int, message: str) -> None:
        self.num_problems += 1
        if len(self.first_problems) < SHOWN_PROBLEMS:
            place = place_of(self._source.files[self._task.file], number)
            self.first_problems.append(Problem(place, message))
