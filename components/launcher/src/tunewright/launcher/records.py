"""The record of a run: one of this home, or one that was copied from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from tunewright.contracts.errors import NotFound, RecordMismatch
from tunewright.contracts.provenance import ProvenanceRecord
from tunewright.contracts.rundir import RunDir
from tunewright.launcher.run_store import find_run


@dataclass(frozen=True)
class FoundRecord:
    """A record, and where it lies."""

    record: ProvenanceRecord
    path: Path
    """Of `provenance.json`, or whatever the copy is called."""

    @property
    def run(self) -> RunDir | None:
        """The run's directory; None of a record that was copied alone."""
        run = RunDir(self.path.parent)
        return run if run.job.is_file() and run.provenance == self.path else None

    @property
    def patch(self) -> Path:
        """Where the patch of a dirty tree would be: beside the record."""
        return RunDir(self.path.parent).patch


def find_record(home: Path, named: str) -> FoundRecord:
    """The record of the run called `named`, or the one at that path: of a `provenance.json`, or of a run's directory.

    Raises NotFound where there is none, RecordMismatch where it cannot be read.
    """
    path = _path_of(home, named)
    try:
        record = ProvenanceRecord.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise _no_record(path) from None
    except OSError as error:
        raise NotFound(f"{path}: cannot be read: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise RecordMismatch(f"{path}: is not the record of a run: {where}: {first['msg']}") from None
    return FoundRecord(record, path.absolute())


def _path_of(home: Path, named: str) -> Path:
    is_name = "/" not in named and RunDir.of(home, named).job.is_file()
    path = Path(named).expanduser()
    if not is_name and path.is_dir():
        return RunDir(path).provenance
    if not is_name and (path.is_file() or "/" in named or named.endswith(".json")):
        return path
    return find_run(home, named).provenance


def _no_record(path: Path) -> NotFound:
    run = RunDir(path.parent)
    if run.job.is_file() and path == run.provenance:
        hint = f"it is written at the end of a run: `launcher status {run.name}` tells where it stands"
        return NotFound(f"run `{run.name}` has no record ({path})", hint)
    return NotFound(f"{path}: no such record", "a run's name, the path of a provenance.json, or a run's directory")
