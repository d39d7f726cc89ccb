"""Encoded rows on disk, in the order they came: written once, then read in any order, not held in memory."""

from __future__ import annotations

import os
from array import array
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tunewright.dataset_cacher.encoding import Encoded


class Spool:
    """Two files of numbers beside each other, and where each row starts in them.

    In memory are 16 bytes a row. Write with `append`, then `close`, then read with `ids` and `spans`.
    """

    def __init__(self, directory: Path, name: str, id_type: np.dtype[Any]) -> None:
        self._paths = {kind: directory / f"{name}.{kind}" for kind in ("ids", "spans")}
        self._types: dict[str, np.dtype[Any]] = {"ids": id_type, "spans": np.dtype(np.uint32)}
        self._files: dict[str, IO[bytes]] = {kind: path.open("wb") for kind, path in self._paths.items()}
        self._ends = {kind: array("q", [0]) for kind in self._paths}

    def append(self, encoded: Encoded) -> int:
        """Keep one row. Gives its number."""
        for kind, values in (("ids", encoded.ids), ("spans", encoded.spans)):
            self._files[kind].write(values.tobytes())
            self._ends[kind].append(self._ends[kind][-1] + len(values))
        return len(self._ends["ids"]) - 2

    def close(self) -> None:
        """End writing; reading begins."""
        for kind, file in self._files.items():
            file.close()
            self._files[kind] = self._paths[kind].open("rb")

    def remove(self) -> None:
        """Delete the files."""
        for kind, path in self._paths.items():
            self._files[kind].close()
            path.unlink(missing_ok=True)

    def ids(self, row: int) -> NDArray[Any]:
        """The token ids of a row."""
        return self._values("ids", row)

    def spans(self, row: int) -> NDArray[Any]:
        """The trained ranges of a row."""
        return self._values("spans", row)

    def _values(self, kind: str, row: int) -> NDArray[Any]:
        ends = self._ends[kind]
        size, count = self._types[kind].itemsize, ends[row + 1] - ends[row]
        # Not a memory map: its pages would count as this process's memory, all of the spool in the end.
        return np.frombuffer(os.pread(self._files[kind].fileno(), count * size, ends[row] * size), self._types[kind])
