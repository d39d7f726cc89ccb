"""Times as protobuf has them."""

from __future__ import annotations

import time

from google.protobuf.timestamp_pb2 import Timestamp  # pants: no-infer-dep


def now() -> Timestamp:
    """This moment."""
    moment = Timestamp()
    moment.FromNanoseconds(time.time_ns())
    return moment


def seconds_since(moment: Timestamp) -> float:
    """How long ago it was."""
    then_ns: int = moment.ToNanoseconds()
    return (time.time_ns() - then_ns) / 1e9
