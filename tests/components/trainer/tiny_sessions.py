"""Sessions of small trainings, open and ready for their first step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conformance.tiny_jobs import make_cache, make_conversations, make_job, make_model
from tunewright.trainer.job import open_job
from tunewright.trainer.session import Session, open_session
from tunewright.trainer.strategies.choosing import start_engine

CONVERSATIONS = make_conversations(12)
PACKED = [[0, 1, 2], [3], [4, 5], [6, 7], [8, 9, 10], [11]]


@contextmanager
def session_of(root: Path, **arguments: Any) -> Iterator[Session]:
    """A session of twelve conversations below `root`; `arguments` are those of `make_job`."""
    cache = make_cache(root / "cache", CONVERSATIONS, packed=PACKED if arguments.get("packing") else ())
    job = open_job(make_job(root, make_model(root / "model"), cache, **arguments))
    engine = start_engine(job.experiment)
    try:
        yield open_session(job, engine)
    finally:
        engine.close()
