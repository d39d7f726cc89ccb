"""The preparation itself: sources cut into parts, parts encoded, rows put into their order, the manifest at the end."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from tunewright.contracts.datasets import DatasetManifest, FileRecord
from tunewright.contracts.errors import InvalidDataset, Problem
from tunewright.contracts.files import json_text
from tunewright.dataset_cacher.inputs import CACHE_FORMAT_VERSION, Inputs, SourceInputs
from tunewright.dataset_cacher.preparation.assembling import CacheOrder, EncodedSource, write_shards
from tunewright.dataset_cacher.preparation.drops import check_dropped
from tunewright.dataset_cacher.preparation.executors import PARTS_OF_SEVERAL, MakeExecutor, PartReport, PartWorker
from tunewright.dataset_cacher.preparation.packing import pack_examples
from tunewright.dataset_cacher.preparation.part_encoding import SHOWN_PROBLEMS, PartEncoder, Tools
from tunewright.dataset_cacher.preparation.parts import PartStore, PartTask
from tunewright.dataset_cacher.preparation.progress import Progress
from tunewright.dataset_cacher.preparation.selecting import Selection, select, tasks_of
from tunewright.dataset_cacher.preparation.shards import ShardWriter, write_packing
from tunewright.dataset_cacher.preparation.statistics import STATISTICS_FILE, Tally, statistics_of, total
from tunewright.dataset_cacher.reading.opening import signature_of
from tunewright.dataset_cacher.reading.scans import Scan
from tunewright.dataset_cacher.tokens.engines import ENGINE_VARIABLE, FAST, REFERENCE, limit_threads, wanted_engine
from tunewright.dataset_cacher.tokens.self_check import Checked, EngineDiffers
from tunewright.dataset_cacher.tokens.tokenizer_files import TOKENIZER_FILE


@dataclass(frozen=True)
class Work:
    """What is to be prepared, and what does it."""

    inputs: Inputs
    scans: tuple[tuple[Scan, ...], ...]
    """Of each file of each source."""

    store: PartStore
    make_executor: MakeExecutor
    progress: Progress


class RowProblems:
    """Rows that cannot be read: the first few of them, and how many there are."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[Problem] = []

    def add(self, report: PartReport) -> None:
        """Those of one part."""
        self.count += report.num_problems
        self._first.extend(report.first_problems[: SHOWN_PROBLEMS - len(self._first)])

    def raise_if_any(self) -> None:
        """Raise InvalidDataset with the first few and the count."""
        if not self.count:
            return
        shown = "" if self.count <= SHOWN_PROBLEMS else f"; the first {SHOWN_PROBLEMS}"
        rows = "1 row" if self.count == 1 else f"{self.count} rows"
        lines = "".join(f"\n  {problem}" for problem in self._first)
        raise InvalidDataset(f"dataset: {rows} cannot be used{shown}:{lines}", "", tuple(self._first))


def prepare_cache(work: Work, directory: Path) -> DatasetManifest:
    """Write everything but the manifest into `directory`, and give the manifest.

    Parts that an earlier preparation finished are taken as they are. Raises InvalidDataset for rows that cannot be
    used, naming them, and where too little is left to train on.
    """
    selections = _select(work)
    tasks = [
        list(tasks_of(scans, index, one)) for index, (scans, one) in enumerate(zip(work.scans, selections, strict=True))
    ]
    limit_threads(is_one_of_several=sum(map(len, tasks)) >= PARTS_OF_SEVERAL)
    tools, checked = _choose_tools(work)
    try:
        _encode(work, tasks, tools)
    except EngineDiffers as difference:
        _say_fallback(work, difference)
        tools, checked = Tools.make(work.inputs, REFERENCE), Checked()
        _encode(work, tasks, tools)
    _check_unchanged(work.inputs)
    sources = [
        EncodedSource(selection, mine, work.store, tools.encoder.id_type, work.inputs.sequences_per_example)
        for selection, mine in zip(selections, tasks, strict=True)
    ]
    try:
        return _write_cache(work, sources, tools, checked, directory)
    finally:
        for source in sources:
            source.close()


def _select(work: Work) -> list[Selection]:
    selections = []
    for index, (source, scans) in enumerate(zip(work.inputs.sources, work.scans, strict=True)):
        one = select(source, scans, index, work.inputs.request.seed)
        if one.num_repeated:
            asked = f"dataset.mix[{index}]: {len(one.order)} rows are asked for and {one.available} are there"
            work.progress.note(f"{asked}: {one.num_repeated} are repeats")
        selections.append(one)
    return selections


def _choose_tools(work: Work) -> tuple[Tools, Checked]:
    """The fastest engine that passes the check on adversarial texts, or the one that the environment asks for.

    Raises InvalidDataset where that one does not pass.
    """
    wanted = wanted_engine()
    if wanted == REFERENCE:
        return Tools.make(work.inputs, REFERENCE), Checked()
    try:
        tools = Tools.make(work.inputs, FAST)
        if tools.encoder.is_fast:
            return tools, tools.check_adversarial()
        reason = "its tokens do not spell out the bytes of the text"
    except EngineDiffers as difference:
        _say_fallback(work, difference)
        reason = f"it differs from {REFERENCE}: {difference}"
    except (ImportError, ValueError, RuntimeError, TypeError) as error:  # what the engine does not take, it refuses
        reason = str(error).split("\n")[0] or type(error).__name__
    if wanted is not None:
        words = f"{ENGINE_VARIABLE}={wanted}: this tokenizer cannot be left to it: {reason}"
        raise InvalidDataset(words, f"without the variable, {REFERENCE} encodes it")
    return Tools.make(work.inputs, REFERENCE), Checked()


def _say_fallback(work: Work, difference: EngineDiffers) -> None:
    work.progress.note(f"dataset: {FAST} and {REFERENCE} differ on {difference}; all is encoded by {REFERENCE}")


def _encode(work: Work, tasks: Sequence[Sequence[PartTask]], tools: Tools) -> None:
    """Encode every part that is not there yet. All rows are read before a bad one is reported: all are told at once."""
    engine = tools.encoder.engine.name
    usable = {engine, REFERENCE}
    waiting = [task for task in chain.from_iterable(tasks) if not work.store.has(task, usable)]
    work.progress.start(sum(task.num_wanted for task in chain.from_iterable(tasks)))
    found = sum(task.num_wanted for task in chain.from_iterable(tasks)) - sum(task.num_wanted for task in waiting)
    if found:
        work.progress.note(f"dataset: {found} rows were encoded before")
        work.progress.advance(found, 0)
    executor = work.make_executor(PartWorker(PartEncoder(work.inputs, tools), work.store, engine))
    problems = RowProblems()
    for report in executor.run(waiting, len(waiting), work.progress.advance):
        problems.add(report)
    problems.raise_if_any()


def _check_unchanged(inputs: Inputs) -> None:
    """The digest must be of what was read."""
    for source in inputs.sources:
        for file, signature in zip(source.files, source.signatures, strict=True):
            if signature_of(file) != signature:
                raise InvalidDataset(f"{file.shown}: changed while it was read", "try again when it is written")


def _write_cache(
    work: Work, sources: Sequence[EncodedSource], tools: Tools, checked: Checked, directory: Path
) -> DatasetManifest:
    """Encoded rows to shards in the cache's order, and what vouches for them."""
    inputs, dataset = work.inputs, work.inputs.request.dataset
    order = CacheOrder.of(sources, inputs.request.seed if dataset.shuffle else None)
    columns = order.columns(sources)
    _check_drops(work, len(order.rows) // order.sequences_per_row, order)
    writer = ShardWriter(directory, tools.encoder.id_type)
    try:
        write_shards(writer, sources, order, columns.lengths)
        shards = writer.finish()
    finally:
        writer.abort()
    per_example = inputs.sequences_per_example
    plan = pack_examples(columns.lengths, dataset.max_length_tokens, per_example)
    rule = tools.masker.rule.name.lower()
    statistics = statistics_of(columns, order.dropped, len(plan), dataset.max_length_tokens, rule, per_example)
    described = tuple(
        {**_source_document(source, scans, encoded.selection), **numbers}
        for source, scans, encoded, numbers in zip(
            inputs.sources, work.scans, sources, statistics["sources"], strict=True
        )
    )
    document = json_text({**statistics, "sources": described})
    (directory / STATISTICS_FILE).write_text(document, encoding="utf-8")
    shutil.copyfile(inputs.tokenizer.tokenizer, directory / TOKENIZER_FILE)
    named = inputs.tokenizer.named_tokens
    engine = tools.encoder.engine
    return DatasetManifest(
        format_version=CACHE_FORMAT_VERSION,
        digest=inputs.digest,
        key=inputs.key,
        id_type=tools.encoder.id_type.name,
        vocabulary_size=tools.encoder.vocabulary_size,
        eos_token_id=_id_of(tools, named.get("eos_token")),
        pad_token_id=_id_of(tools, named.get("pad_token")),
        rows=statistics["rows"],
        sequences_per_example=per_example,
        tokens=statistics["tokens"],
        trained_tokens=statistics["trained_tokens"],
        dropped=statistics["dropped"],
        sources=described,
        engine={"name": engine.name, "version": engine.version, "checked_texts": checked.texts,
                "checked_tokens": checked.tokens},
        shards=shards,
        packing=write_packing(directory, plan),
        statistics=FileRecord.of(directory, STATISTICS_FILE),
        tokenizer=FileRecord.of(directory, TOKENIZER_FILE),
    )  # fmt: skip


def _check_drops(work: Work, num_kept: int, order: CacheOrder) -> None:
    """Say what is left out. Raises InvalidDataset where it is too much."""
    whole = total([Tally(dropped=dropped) for dropped in order.dropped])
    num_rows = num_kept + whole.dropped.total()
    for reason, count in sorted(whole.dropped.items()):
        work.progress.note(f"dataset: {count} of {num_rows} rows are left out: {reason}")
    check_dropped(whole.dropped, num_rows, work.inputs.request.dataset.max_dropped_fraction)


def _source_document(source: SourceInputs, scans: Sequence[Scan], selection: Selection) -> dict[str, Any]:
    """What the manifest says of a source. No path: a file that was moved is the same source."""
    return {
        **_content_document(source, scans),
        "format": source.format.name,
        "train_on": source.spec.train_on,
        "rows_available": selection.available,
        "rows_taken": len(selection.order),
        "rows_repeated": selection.num_repeated,
    }


def _content_document(source: SourceInputs, scans: Sequence[Scan]) -> dict[str, Any]:
    """Not the files of a hub dataset: how its rows lie in them differs from machine to machine."""
    if source.hub is not None:
        return {"hub": source.hub.to_document()}
    files = zip(source.files, source.sha256s, scans, strict=True)
    return {"files": [{"sha256": sha256, "kind": file.kind, "rows": scan.num_rows} for file, sha256, scan in files]}


def _id_of(tools: Tools, token: str | None) -> int | None:
    return None if token is None else tools.tokenizer.token_to_id(token)
