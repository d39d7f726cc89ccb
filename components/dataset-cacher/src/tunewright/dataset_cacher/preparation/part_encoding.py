"""One part of a source to tokens: rows read, rendered, encoded and masked, in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import orjson
from tokenizers import Tokenizer

from tunewright.contracts.errors import BrokenPlugin, Problem
from tunewright.dataset_cacher.chat.masking import Masker, Rendered, Unmaskable
from tunewright.dataset_cacher.chat.rendering import Renderer, RenderingFailed
from tunewright.dataset_cacher.chat.skeletons import SkeletonRenderer
from tunewright.dataset_cacher.inputs import Inputs
from tunewright.dataset_cacher.preparation.drops import TEMPLATE_UNMASKABLE
from tunewright.dataset_cacher.preparation.keeping import statuses_of
from tunewright.dataset_cacher.preparation.parts import DROP_REASONS, FIRST_DROP, KEPT, NOT_TAKEN, EncodedPart, PartTask
from tunewright.dataset_cacher.reading.readers import place_of, read_part
from tunewright.dataset_cacher.reading.rows import RowReader, make_row_reader
from tunewright.dataset_cacher.tokens.encoding import EncodedRows, Encoder, load_tokenizer, special_tokens_of
from tunewright.dataset_cacher.tokens.engines import REFERENCE, FastEngine, ReferenceEngine
from tunewright.dataset_cacher.tokens.self_check import Checked, EngineDiffers, adversarial_texts, check_engine

CHUNK_ROWS = 2048
CHUNK_CHARACTERS = 1 << 20
"""What is encoded in one call: the batch is spread over all cores, and held in memory."""

CHECKED_ROWS = 2
"""Rows of each part that are also rendered by the template and encoded by the reference."""

SHOWN_PROBLEMS = 5

OnRows = Callable[[int, int], None]
"""Told how many more rows and tokens are encoded."""

Numbered = tuple[int, Rendered]
"""A conversation as text, with its number in the part: its row's index, times the conversations that a row gives."""


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

    def encode(self, rendered: Sequence[Rendered]) -> EncodedRows:
        """Rows of texts."""
        return self.encoder.encode(rendered, self.max_length_tokens)

    def check(self, rendered: Sequence[Rendered] | None = None) -> Checked:
        """Compare the engine with the reference, on adversarial texts if none are given. Raises EngineDiffers."""
        if self.encoder is self.reference:
            return Checked()
        texts = adversarial_texts(self.special_tokens) if rendered is None else rendered
        return check_engine(self.encoder, self.reference, texts, self.max_length_tokens)


class PartEncoder:
    """Encodes parts, one after the other."""

    def __init__(self, inputs: Inputs, tools: Tools) -> None:
        self.inputs = inputs
        self._tools = tools
        self._readers: dict[int, RowReader] = {}

    def encode(self, task: PartTask, on_rows: OnRows = lambda rows, tokens: None) -> EncodedPart:
        """The rows that the task wants. After the first bad row the others are only looked at.

        Raises EngineDiffers where a row that is compared is not what the reference makes of it.
        """
        part = _PartInWork(self.inputs, self._tools, self._reader_of(task.source), task)
        encoded, per_row = [], self.inputs.sequences_per_example
        for chunk in part.chunks():
            rows = self._tools.encode([rendered for _, rendered in chunk])
            part.check(chunk)
            statuses = statuses_of(rows, per_row)
            part.status[[number // per_row for number, _ in chunk[::per_row]]] = statuses
            is_kept = np.repeat(statuses == KEPT, per_row)
            encoded.append(rows if is_kept.all() else rows.take(np.flatnonzero(is_kept)))
            on_rows(len(statuses), len(rows.ids))
        if part.num_problems or not encoded:
            encoded = [self._tools.encode([])]
        kept = EncodedRows.concatenate(encoded)
        return EncodedPart(part.status, kept, part.num_problems, tuple(part.first_problems))

    def _reader_of(self, source: int) -> RowReader:
        if source not in self._readers:
            self._readers[source] = make_row_reader(self.inputs.sources[source])
        return self._readers[source]


class _PartInWork:
    """What is known of a part while its rows go by."""

    def __init__(self, inputs: Inputs, tools: Tools, reader: RowReader, task: PartTask) -> None:
        self.status = np.full(task.part.num_rows, NOT_TAKEN, dtype=np.uint8)
        self.num_problems = 0
        self.first_problems: list[Problem] = []
        self._tools = tools
        self._task = task
        self._reader = reader
        self._source = inputs.sources[task.source]
        self._template = inputs.template.name
        self._per_row = inputs.sequences_per_example
        self._to_check: list[Numbered] = []

    def chunks(self) -> Iterator[list[Numbered]]:
        """The wanted rows as text, as many together as are encoded at once: a row's conversations are not parted."""
        chunk: list[Numbered] = []
        characters = 0
        for row in self._rendered():
            chunk += row
            characters += sum([len(rendered.text) for _, rendered in row])
            if len(chunk) >= CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
                yield chunk
                chunk, characters = [], 0
        if chunk:
            yield chunk

    def check(self, chunk: list[Numbered]) -> None:
        """Compare what is to be compared and is in `chunk` with the reference."""
        if self._tools.encoder is self._tools.reference or not self._to_check:
            return
        rendered = dict(chunk)
        for number, expected in self._to_check:
            if rendered[number] != expected:
                raise EngineDiffers(f"rendered without the template: {rendered[number].text[:80]!r}")
        self._tools.check([one for _, one in self._to_check])
        self._to_check.clear()

    def _rendered(self) -> Iterator[list[Numbered]]:
        file, is_wanted = self._source.files[self._task.file], self._task.is_wanted
        train_on, render = self._source.spec.train_on, self._tools.renderer.render
        num_rendered = 0
        for index, (number, content) in enumerate(read_part(file, self._task.part)):
            if index >= len(self.status):  # more rows than were counted: the file changed, which is found later
                return
            if is_wanted is not None and not is_wanted[index]:
                continue
            try:
                conversations = self._reader(content)
                rendered = [render(one, train_on) for one in conversations]
                if num_rendered < CHECKED_ROWS and not self.num_problems:
                    expected = [self._tools.masker.render(one, train_on) for one in conversations]
                    self._to_check += enumerate(expected, index * self._per_row)
                    num_rendered += 1
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
                    yield list(enumerate(rendered, index * self._per_row))

    def _add_problem(self, number: int, message: str) -> None:
        self.num_problems += 1
        if len(self.first_problems) < SHOWN_PROBLEMS:
            place = place_of(self._source.files[self._task.file], number)
            self.first_problems.append(Problem(place, message))
