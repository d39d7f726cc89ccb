"""The preparation itself: sources to rows to tokens to shards, each step on a stream, the manifest at the end."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.contracts.dataset_plugins import Row
from tunewright.contracts.datasets import DatasetManifest, FileRecord
from tunewright.contracts.errors import BrokenPlugin, InvalidDataset, Problem
from tunewright.contracts.files import json_text
from tunewright.contracts.plugins import load_entry
from tunewright.dataset_cacher.conversations import Conversation, make_conversation
from tunewright.dataset_cacher.digests import signature_of
from tunewright.dataset_cacher.encoding import Encoded, Encoder
from tunewright.dataset_cacher.inputs import CACHE_FORMAT_VERSION, Inputs, SourceInputs
from tunewright.dataset_cacher.masking import Masker, Rendered, TrainOn, Unmaskable
from tunewright.dataset_cacher.packing import pack
from tunewright.dataset_cacher.progress import Progress
from tunewright.dataset_cacher.readers import BadRow, ReadRow, count_rows, read_rows
from tunewright.dataset_cacher.rendering import Renderer, RenderingFailed
from tunewright.dataset_cacher.sampling import Indexes, rows_to_take, sample_rows, shuffled
from tunewright.dataset_cacher.shards import CachedRow, ShardWriter, write_packing
from tunewright.dataset_cacher.spool import Spool
from tunewright.dataset_cacher.statistics import (
    NO_TRAINED_TOKENS,
    TEMPLATE_UNMASKABLE,
    Tally,
    make_statistics,
    total,
)
from tunewright.dataset_cacher.tokenizer_files import TOKENIZER_FILE

STATISTICS_FILE = "statistics.json"

CHUNK_ROWS = 512
CHUNK_CHARACTERS = 1 << 20
"""What is encoded in one call: the batch is spread over all cores, and held in memory."""

SHOWN_PROBLEMS = 5

DROP_REASONS = (NO_TRAINED_TOKENS, TEMPLATE_UNMASKABLE)


class RowProblems:
    """Rows that cannot be read: the first few of them, and how many there are."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[Problem] = []

    def add(self, place: str, message: str) -> None:
        """One more. `place` is its file and line."""
        self.count += 1
        if len(self._first) < SHOWN_PROBLEMS:
            self._first.append(Problem(place, message))

    def raise_if_any(self) -> None:
        """Raise InvalidDataset with the first few and the count."""
        if not self.count:
            return
        shown = "" if self.count <= SHOWN_PROBLEMS else f"; the first {SHOWN_PROBLEMS}"
        rows = "1 row" if self.count == 1 else f"{self.count} rows"
        lines = "".join(f"\n  {problem}" for problem in self._first)
        raise InvalidDataset(f"dataset: {rows} cannot be used{shown}:{lines}", "", tuple(self._first))


@dataclass(frozen=True)
class Selection:
    """The rows a source gives."""

    available: int
    order: Indexes
    """Indexes within the source, in the order of the cache, repeats included."""

    rows_by_file: tuple[int, ...]

    @property
    def repeated(self) -> int:
        """How many of the rows are there a second time or more often."""
        return max(0, len(self.order) - self.available)


@dataclass
class EncodedSource:
    """The rows of one source, encoded once each, however often they were taken."""

    selection: Selection
    spool: Spool
    spooled: NDArray[np.int64]
    """For each row of the source: its number in the spool, -1 where it was not taken, -2 - n for drop reason n."""

    truncated: NDArray[np.bool_]
    tally: Tally = field(default_factory=Tally)

    def drop(self, row: int, reason: str) -> None:
        """Leave a row out, for a reason that is counted."""
        self.spooled[row] = -2 - DROP_REASONS.index(reason)

    def keep(self, row: int, encoded: Encoded) -> None:
        """Spool a row."""
        self.spooled[row] = self.spool.append(encoded)
        self.truncated[row] = encoded.is_truncated


@dataclass(frozen=True)
class Tools:
    """What turns rows into tokens."""

    encoder: Encoder
    masker: Masker
    template: str
    max_length_tokens: int


def prepare_cache(inputs: Inputs, directory: Path, progress: Progress) -> DatasetManifest:
    """Write everything but the manifest into `directory`, and give the manifest.

    Raises InvalidDataset for rows that cannot be used, naming them, and where nothing is left to train on.
    """
    tools = _make_tools(inputs)
    selections = [_select(source, index, inputs, progress) for index, source in enumerate(inputs.sources)]
    progress.start(sum(len(np.unique(selection.order)) for selection in selections))
    encoded = _encode_sources(inputs, selections, tools, directory, progress)
    _check_unchanged(inputs)
    return _write_cache(inputs, encoded, tools, directory, progress)


def _make_tools(inputs: Inputs) -> Tools:
    encoder = Encoder(inputs.tokenizer)
    renderer = Renderer(inputs.template.name, inputs.template.source, inputs.tokenizer.named_tokens)
    masker = Masker(renderer, encoder.special_tokens)
    return Tools(encoder, masker, inputs.template.name, inputs.request.dataset.max_length_tokens)


def _select(source: SourceInputs, index: int, inputs: Inputs, progress: Progress) -> Selection:
    """Count the rows of a source and choose among them. Raises InvalidDataset where there is nothing to choose."""
    rows_by_file = tuple(count_rows(file) for file in source.files)
    available, field_name = sum(rows_by_file), f"dataset.mix[{index}]"
    if not available:
        shown = ", ".join(file.shown for file in source.files[:3])
        raise _invalid(f"{field_name}.source", f"`{source.spec.source}` has no rows ({shown})", "is it the right file?")
    count = rows_to_take(available, source.spec.fraction, source.spec.rows)
    if not count:
        message = f"{source.spec.fraction} of {available} rows is not one row"
        raise _invalid(f"{field_name}.fraction", message, "give more, or `rows`")
    selection = Selection(available, sample_rows(available, count, inputs.request.seed), rows_by_file)
    if selection.repeated:
        progress.note(
            f"{field_name}: {count} rows are asked for and {available} are there: {selection.repeated} are repeats"
        )
    return selection


def _encode_sources(
    inputs: Inputs, selections: list[Selection], tools: Tools, directory: Path, progress: Progress
) -> list[EncodedSource]:
    """Encode every source. All rows are read before a bad one is reported, so that all are told at once."""
    problems, encoded = RowProblems(), []
    try:
        for index, (source, selection) in enumerate(zip(inputs.sources, selections, strict=True)):
            one = EncodedSource(
                selection,
                Spool(directory, f".spool-{index:05d}", tools.encoder.id_type),
                spooled=np.full(selection.available, -1, dtype=np.int64),
                truncated=np.zeros(selection.available, dtype=np.bool_),
            )
            encoded.append(one)
            _encode_source(source, one, tools, problems, progress)
            one.spool.close()
        problems.raise_if_any()
    except BaseException:
        for one in encoded:
            one.spool.remove()
        raise
    return encoded


def _encode_source(
    source: SourceInputs, encoded: EncodedSource, tools: Tools, problems: RowProblems, progress: Progress
) -> None:
    rendered = _render_rows(source, encoded, tools, problems)
    for chunk in _chunks(rendered):
        tokens = 0
        for (row, _), one in zip(
            chunk, tools.encoder.encode([text for _, text in chunk], tools.max_length_tokens), strict=True
        ):
            tokens += len(one.ids)
            if one.num_trained:
                encoded.keep(row, one)
            else:
                encoded.drop(row, NO_TRAINED_TOKENS)
        progress.advance(len(chunk), tokens)


def _render_rows(
    source: SourceInputs, encoded: EncodedSource, tools: Tools, problems: RowProblems
) -> Iterator[tuple[int, Rendered]]:
    """Each wanted row as text. After the first bad row the others are only looked at."""
    wanted = np.zeros(encoded.selection.available, dtype=np.bool_)
    wanted[encoded.selection.order] = True
    read_format: Callable[[Row], Any] = load_entry(source.format.entry, source.format_owner)
    train_on: TrainOn = source.spec.train_on
    for row, (place, content) in enumerate(_rows_of(source)):
        if row >= len(wanted) or not wanted[row]:  # more rows than were counted: the file changed, which is found later
            continue
        try:
            rendered = tools.masker.render(_conversation(content, read_format, source), train_on)
        except BrokenPlugin:  # a ValueError too, but no fault of the row
            raise
        except RenderingFailed as error:
            problems.add(place, f"chat template `{tools.template}` cannot render it: {error}")
        except Unmaskable:
            encoded.drop(row, TEMPLATE_UNMASKABLE)
        except ValueError as error:
            problems.add(place, f"format `{source.format.name}`: {error}")
        else:
            if not problems.count:
                yield row, rendered


def _rows_of(source: SourceInputs) -> Iterator[ReadRow]:
    for file in source.files:
        yield from read_rows(file)


def _conversation(content: Row | BadRow, read_format: Callable[[Row], Any], source: SourceInputs) -> Conversation:
    """Raises ValueError for a row that is none or that the format cannot read, BrokenPlugin where the format fails."""
    if isinstance(content, BadRow):
        raise content
    try:
        messages = read_format(content)
    except ValueError:
        raise
    except Exception as error:
        what = f"dataset format `{source.format.name}` of {source.format_owner} failed"
        raise BrokenPlugin(f"{what}: {type(error).__name__}: {error}") from error
    return make_conversation(messages)


def _chunks(rendered: Iterator[tuple[int, Rendered]]) -> Iterator[list[tuple[int, Rendered]]]:
    chunk: list[tuple[int, Rendered]] = []
    characters = 0
    for row, one in rendered:
        chunk.append((row, one))
        characters += len(one.text)
        if len(chunk) >= CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _check_unchanged(inputs: Inputs) -> None:
    """The digest must be of what was read."""
    for source in inputs.sources:
        for file, signature in zip(source.files, source.signatures, strict=True):
            if signature_of(file.path) != signature:
                raise InvalidDataset(f"{file.shown}: changed while it was read", "try again when it is written")


def _write_cache(
    inputs: Inputs, encoded: list[EncodedSource], tools: Tools, directory: Path, progress: Progress
) -> DatasetManifest:
    """Spooled rows to shards in the cache's order, and what vouches for them."""
    writer, lengths = ShardWriter(directory, tools.encoder.id_type), []
    try:
        for row in _cached_rows(inputs, encoded):
            writer.append(row)
            lengths.append(len(row.ids))
        whole = total([one.tally for one in encoded])
        if not lengths:
            raise _nothing_left(whole)
        shards = writer.finish()
    finally:
        writer.abort()
        for one in encoded:
            one.spool.remove()
    for reason, count in sorted(whole.dropped.items()):
        progress.note(f"dataset: {count} of {whole.rows + whole.dropped.total()} rows are left out: {reason}")
    packed = pack(lengths, tools.max_length_tokens)
    sources = tuple(_source_document(source, one) for source, one in zip(inputs.sources, encoded, strict=True))
    statistics = make_statistics(
        whole, np.asarray(lengths), len(packed), tools.max_length_tokens, tools.masker.rule.name.lower()
    )
    (directory / STATISTICS_FILE).write_text(json_text({**statistics, "sources": list(sources)}), encoding="utf-8")
    shutil.copyfile(inputs.tokenizer.tokenizer, directory / TOKENIZER_FILE)
    return DatasetManifest(
        format_version=CACHE_FORMAT_VERSION,
        digest=inputs.digest,
        key=inputs.key,
        id_type=tools.encoder.id_type.name,
        vocabulary_size=tools.encoder.vocabulary_size,
        eos_token_id=tools.encoder.id_of(inputs.tokenizer.named_tokens.get("eos_token")),
        pad_token_id=tools.encoder.id_of(inputs.tokenizer.named_tokens.get("pad_token")),
        rows=whole.rows,
        tokens=whole.tokens,
        trained_tokens=whole.trained_tokens,
        dropped=whole.to_document()["dropped"],
        sources=sources,
        shards=shards,
        packing=write_packing(directory, packed),
        statistics=FileRecord.of(directory, STATISTICS_FILE),
        tokenizer=FileRecord.of(directory, TOKENIZER_FILE),
    )


def _cached_rows(inputs: Inputs, encoded: list[EncodedSource]) -> Iterator[CachedRow]:
    """The mix in its order: source after source, or shuffled."""
    sources = np.repeat(np.arange(len(encoded)), [len(one.selection.order) for one in encoded])
    rows = np.concatenate([one.selection.order for one in encoded])
    order = shuffled(len(rows), inputs.request.seed) if inputs.request.dataset.shuffle else np.arange(len(rows))
    for place in order:
        source, row = int(sources[place]), int(rows[place])
        one = encoded[source]
        spooled = int(one.spooled[row])
        if spooled < 0:
            one.tally.dropped[DROP_REASONS[-2 - spooled]] += 1
            continue
        ids, spans = one.spool.ids(spooled), one.spool.spans(spooled)
        one.tally.count(len(ids), int(spans[1::2].sum()) - int(spans[::2].sum()), bool(one.truncated[row]))
        yield CachedRow(ids, spans, source, row)


def _source_document(source: SourceInputs, encoded: EncodedSource) -> dict[str, Any]:
    """What the manifest says of a source. No path: a file that was moved is the same source."""
    selection = encoded.selection
    return {
        "files": [
            {"sha256": sha256, "kind": file.kind, "rows": rows}
            for file, sha256, rows in zip(source.files, source.sha256s, selection.rows_by_file, strict=True)
        ],
        "format": source.format.name,
        "train_on": source.spec.train_on,
        "rows_available": selection.available,
        "rows_taken": len(selection.order),
        "rows_repeated": selection.repeated,
        **encoded.tally.to_document(),
    }


def _nothing_left(whole: Tally) -> InvalidDataset:
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(whole.dropped.items()))
    hint = "is there an answer in the rows, and does it start before `dataset.max_length_tokens`?"
    return _invalid("dataset", f"no row is left to train on: {reasons}", hint)


def _invalid(path: str, message: str, hint: str) -> InvalidDataset:
    problem = Problem(path, message, hint)
    return InvalidDataset(f"{path}: {message}", hint, (problem,))
