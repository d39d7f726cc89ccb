"""The raw rate of each step of a preparation, alone, in one process: what the whole can at best come to.

    PEX_INTERPRETER=1 dist/tunewright-dataset-cacher.pex -m benchmarks.dataset_cacher.rates --work DIRECTORY

CPU seconds of one thread (start it with RAYON_NUM_THREADS=1 FASTOKENS_BPE_THREADS=1) for the corpus of 20,000
conversations, see `corpus.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.dataset_cacher.corpus import CHAT_TEMPLATE, ROWS, Corpus, Message, find_corpus, render

BLOCK_BYTES = 1 << 20
BATCH_ROWS = (16, 64, 256, 1000, 4000, ROWS)
USUAL_BATCH_ROWS = 1000

Result = TypeVar("Result")
Conversation = list[Message]
Batch = tuple[bytes, bytes]
"""What `encode_batch_flat` gives: ids as uint32, offsets as uint64."""


class Clock:
    """CPU seconds by the name of the step, in the order of the steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, step: str, work: Callable[[], Result]) -> Result:
        """What `work` gives, and what it took."""
        started = time.process_time()
        result = work()
        self.seconds[step] = time.process_time() - started
        return result


def scan(path: Path) -> tuple[str, int]:
    """Digest and number of lines, in one read."""
    digest, lines = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            lines += block.count(b"\n")
    return digest.hexdigest(), lines


def parse(path: Path) -> list[Conversation]:
    """Every conversation."""
    import orjson

    with path.open("rb") as lines:
        return [orjson.loads(line)["messages"] for line in lines]


def render_jinja(conversations: list[Conversation]) -> list[str]:
    """The texts, by a compiled template in a sandbox; without its marks, which Jinja does not know."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    source = CHAT_TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(source)
    return [template.render(messages=messages, add_generation_prompt=False) for messages in conversations]


def encode(tokenizer: Any, texts: list[str], batch_rows: int) -> list[Batch]:
    """The tokens, in batches."""
    return [
        tokenizer.encode_batch_flat(texts[start : start + batch_rows]) for start in range(0, len(texts), batch_rows)
    ]


def byte_lengths(tokenizer_file: Path) -> Any:
    """How many bytes of text each token stands for: its own spelling has one character a byte."""
    import numpy as np

    document = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    vocabulary: dict[str, int] = document["model"]["vocab"]
    lengths = np.zeros(max(vocabulary.values()) + 1, dtype=np.uint8)
    for token, number in vocabulary.items():
        lengths[number] = len(token)
    return lengths


def align(batches: list[Batch], lengths: Any) -> int:
    """Where each token ends, in bytes of its batch. Gives the bytes of all."""
    import numpy as np

    return sum(int(np.cumsum(lengths.take(np.frombuffer(ids, np.uint32)), dtype=np.int64)[-1]) for ids, _ in batches)


def write_arrow(batches: list[Batch], path: Path) -> None:
    """The ids as 16-bit lists."""
    import numpy as np
    import pyarrow as arrow

    schema = arrow.schema([("input_ids", arrow.list_(arrow.uint16()))])
    with arrow.ipc.new_file(str(path), schema) as sink:
        for ids, offsets in batches:
            values = arrow.array(np.frombuffer(ids, np.uint32).astype(np.uint16))
            lists = arrow.ListArray.from_arrays(np.frombuffer(offsets, np.uint64).astype(np.int32), values)
            sink.write_batch(arrow.record_batch([lists], schema))


def measure(corpus: Corpus, scratch: Path) -> dict[str, Any]:
    """Every step once, the engine by batch size with an empty and with a full memory."""
    clock = Clock()
    for library in ("numpy", "pyarrow", "orjson", "jinja2.sandbox", "fastokens", "tokenizers"):
        clock.time(f"import {library}", lambda name=library: import_module(name))  # type: ignore[misc]
    file = corpus.tokenizer / "tokenizer.json"
    load = import_module("fastokens").Tokenizer.from_file
    clock.time("load: fastokens", lambda: load(str(file)))
    clock.time("load: tokenizers", lambda: import_module("tokenizers").Tokenizer.from_file(str(file)))
    clock.time("scan: sha256 and lines", lambda: scan(corpus.conversations))
    conversations = clock.time("parse: orjson", lambda: parse(corpus.conversations))
    clock.time("render: Jinja, sandboxed", lambda: render_jinja(conversations))
    texts = clock.time("render: f-string", lambda: [render(messages) for messages in conversations])
    clock.time("to UTF-8", lambda: [text.encode() for text in texts])
    for batch_rows in BATCH_ROWS:
        tokenizer = load(str(file))
        for memory in ("cold", "warm"):
            step = f"encode: batches of {batch_rows}, {memory}"
            clock.time(step, lambda rows=batch_rows, engine=tokenizer: len(encode(engine, texts, rows)))  # type: ignore[misc]
    batches = encode(load(str(file)), texts, USUAL_BATCH_ROWS)
    lengths = clock.time("align: table of byte lengths", lambda: byte_lengths(file))
    clock.time("align: take and cumsum", lambda: align(batches, lengths))
    clock.time("write: Arrow", lambda: write_arrow(batches, scratch / "ids.arrow"))
    clock.time("write: sha256", lambda: scan(scratch / "ids.arrow"))
    tokens = sum(len(ids) // 4 for ids, _ in batches)
    return {"tokens": tokens, "bytes": corpus.conversations.stat().st_size, "cpu_seconds": clock.seconds}


def lines_of(report: dict[str, Any]) -> Iterator[str]:
    """A table."""
    yield f"{report['tokens']:,} tokens, {report['bytes']:,} bytes of JSON lines"
    for step, seconds in report["cpu_seconds"].items():
        is_work = seconds > 0 and not step.startswith(("import", "load"))
        rate = f"{report['tokens'] / seconds / 1e6:10.1f} Mtokens/s" if is_work else ""
        yield f"{step:36} {seconds:8.3f} CPU s {rate}".rstrip()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where the corpus is or will be")
    parser.add_argument("--rows", type=int, default=ROWS, help="conversations; %(default)s")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    arguments = parser.parse_args()
    corpus = find_corpus(arguments.work, arguments.rows)
    with tempfile.TemporaryDirectory(dir=arguments.work) as scratch:
        report = measure(corpus, Path(scratch))
    print(json.dumps(report, indent=2) if arguments.json else "\n".join(lines_of(report)))


if __name__ == "__main__":
    main()
