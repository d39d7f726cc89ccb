"""Which rows of each source are taken, and the parts that hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from tunewright.contracts.dataset_plugins import Row
from tunewright.contracts.errors import InvalidDataset, Problem
from tunewright.dataset_cacher.inputs import SourceInputs
from tunewright.dataset_cacher.preparation.parts import PartTask
from tunewright.dataset_cacher.reading.filters import compile_filters
from tunewright.dataset_cacher.reading.readers import place_of, read_part
from tunewright.dataset_cacher.reading.sampling import Indexes, rows_to_take, sample_rows
from tunewright.dataset_cacher.reading.scans import BadRow, Scan

SHOWN_PROBLEMS = 5


@dataclass(frozen=True)
class Selection:
    """The rows a source gives."""

    available: int
    """Rows there are to choose from: of a source with filters, those that pass."""

    num_rows: int
    """Rows there are."""

    order: Indexes
    """Indexes within the source, in the order of the cache, repeats included."""

    @property
    def num_repeated(self) -> int:
        """How many of the rows are there a second time or more often."""
        return max(0, len(self.order) - self.available)

    @property
    def num_wanted(self) -> int:
        """Different rows."""
        return min(len(self.order), self.available)


def select(source: SourceInputs, scans: Sequence[Scan], index: int, seed: int) -> Selection:
    """Choose among the rows of the mix's source number `index`. Raises InvalidDataset where there are none."""
    num_rows, field_name = sum(scan.num_rows for scan in scans), f"dataset.mix[{index}]"
    if not num_rows:
        shown = ", ".join(file.shown for file in source.files[:3])
        raise invalid(f"{field_name}.source", f"`{source.spec.source}` has no rows ({shown})", "is it the right file?")
    available, passing = num_rows, None
    if source.spec.filters:
        passing = np.flatnonzero(_passing(source, scans, num_rows, compile_filters(source.spec.filters)))
        available = len(passing)
        if not available:
            message = f"none of {num_rows} rows passes"
            raise invalid(f"{field_name}.filters", message, "do the values occur in the rows?")
    count = rows_to_take(available, source.spec.fraction, source.spec.rows)
    if not count:
        message = f"{source.spec.fraction} of {available} rows is not one row"
        raise invalid(f"{field_name}.fraction", message, "give more, or `rows`")
    order = sample_rows(available, count, seed)
    return Selection(available, num_rows, order if passing is None else passing[order])


def tasks_of(scans: Sequence[Scan], index: int, selection: Selection) -> Iterator[PartTask]:
    """The parts of a source that have rows that are taken."""
    is_wanted: NDArray[np.bool_] | None = None
    if selection.num_wanted < selection.num_rows:
        is_wanted = np.zeros(selection.num_rows, dtype=np.bool_)
        is_wanted[selection.order] = True
    number = first_row = 0
    for file, scan in enumerate(scans):
        for part in scan.parts:
            wanted = None if is_wanted is None else is_wanted[first_row : first_row + part.num_rows]
            if wanted is None or wanted.any():
                yield PartTask(index, file, number, part, first_row, wanted)
            number, first_row = number + 1, first_row + part.num_rows


def invalid(path: str, message: str, hint: str) -> InvalidDataset:
    """The error of one field."""
    problem = Problem(path, message, hint)
    return InvalidDataset(str(problem).split("\n")[0], hint, (problem,))


def _passing(
    source: SourceInputs, scans: Sequence[Scan], num_rows: int, passes: Callable[[Row], bool]
) -> NDArray[np.bool_]:
    """Shape (rows,). A row that cannot be read passes: it is reported with the others when it is encoded.

    Raises InvalidDataset with the first rows that the filters cannot be asked of.
    """
    passing, row, problems = np.zeros(num_rows, dtype=np.bool_), 0, list[Problem]()
    for file, scan in zip(source.files, scans, strict=True):
        for part in scan.parts:
            for number, content in islice(read_part(file, part), part.num_rows):
                try:
                    passing[row] = isinstance(content, BadRow) or passes(content)
                except ValueError as error:
                    problems.append(Problem(place_of(file, number), str(error)))
                row += 1
            if len(problems) >= SHOWN_PROBLEMS:
                break
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems[:SHOWN_PROBLEMS])
        raise InvalidDataset(f"dataset: rows that the filters cannot be asked of:{lines}", "", tuple(problems))
    return passing
