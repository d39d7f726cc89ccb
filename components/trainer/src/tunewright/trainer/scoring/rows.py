"""What was found of each row, kept while the job runs: one that is started again does not compute it twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunewright.contracts.files import append_line, write_text_atomically
from tunewright.contracts.rundir import RunDir

_IDENTITY, _DONE, _OF_PROCESS = "identity", "done.jsonl", "process-*.jsonl"


@dataclass(frozen=True)
class RowResult:
    """What was found of one row. What was not measured is None."""

    row: int
    """Its number in the dataset, from 0."""

    tokens: int
    """All its tokens."""

    trained_tokens: int
    """Those that count in its loss."""

    loss_sum: float | None = None
    """The sum of their cross-entropies."""

    generated: str | None = None
    """What the model has answered."""

    generated_tokens: int | None = None
    """Tokens of that, without the one that ends it."""

    reference: str | None = None
    """The answer that was expected."""

    is_whole: bool | None = None
    """Whether that comes to its end; otherwise the dataset's `max_length_tokens` has cut it."""

    answer: str | None = None
    """What was compared of `generated`, normalized. None: it has no answer."""

    reference_answer: str | None = None
    """What was compared of `reference`."""

    exact_match: bool | None = None
    """Whether the two are the same."""

    def to_document(self) -> dict[str, Any]:
        """Its line in `evaluation_rows.jsonl`: what was measured."""
        has_answer, document = self.generated is not None, asdict(self)
        kept = ("row", "tokens", "trained_tokens", *(_ANSWER_KEYS if has_answer else ()))
        mean = {} if self.loss_sum is None else {"loss": self.loss_sum / max(1, self.trained_tokens)}
        return {**{key: document[key] for key in kept}, **mean}


_ANSWER_KEYS = (
    "generated", "generated_tokens", "reference", "is_whole", "answer", "reference_answer", "exact_match",
)  # fmt: skip


class RowStore:
    """The rows that are done, in the run's directory: a file for each process, and one of the attempts before."""

    def __init__(self, run_dir: RunDir) -> None:
        self.directory = run_dir.path / "evaluation_parts"

    def begin(self, identity: str) -> None:
        """Gather what attempts before have done. What they did for another `identity` is thrown away. One process."""
        marker = self.directory / _IDENTITY
        if not marker.is_file() or marker.read_text() != identity:
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory.mkdir(parents=True)
            write_text_atomically(marker, identity)
        parts = sorted(self.directory.glob(_OF_PROCESS))
        done = {one.row: one for path in (self.directory / _DONE, *parts) for one in _read(path)}
        lines = [json.dumps([asdict(one)]) for one in done.values()]
        write_text_atomically(self.directory / _DONE, "".join(f"{line}\n" for line in lines))
        for path in parts:
            path.unlink()

    def done(self) -> dict[int, RowResult]:
        """What attempts before have done, by row."""
        return {one.row: one for one in _read(self.directory / _DONE)}

    def add(self, rank: int, results: Sequence[RowResult]) -> None:
        """Keep what process `rank` has found, all of it or nothing."""
        append_line(self.directory / f"process-{rank:05}.jsonl", json.dumps([asdict(one) for one in results]))

    def has_rows(self) -> bool:
        """Whether there is something to go on with."""
        return any(path.stat().st_size for path in self.directory.glob("*.jsonl"))

    def remove(self) -> None:
        """The rows are in the run's results now."""
        shutil.rmtree(self.directory, ignore_errors=True)


def _read(path: Path) -> Iterator[RowResult]:
    """The rows of a file, but for a torn last line."""
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        try:
            yield from [RowResult(**one) for one in json.loads(line)]
        except json.JSONDecodeError:
            return


def write_rows(path: Path, results: Iterable[RowResult]) -> None:
    """`evaluation_rows.jsonl`, as a whole."""
    lines = (json.dumps(one.to_document(), ensure_ascii=False, allow_nan=False) for one in results)
    write_text_atomically(path, "".join(f"{line}\n" for line in lines))
