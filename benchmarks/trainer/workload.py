"""What is trained in the benchmark: a Llama and conversations of a realistic mix of lengths, made of a seed.

    PYTHON -m benchmarks.trainer.workload --work DIRECTORY [--gpu] ...     (`speed.py` starts it)

DIRECTORY then holds `model/` (weights drawn once), `cache/`, and `steps.json`: which conversations every optimizer step
trains, row by row. Every way reads these, so that all train the same tokens in the same steps from the same weights.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

SMALL_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32_768, "hidden_size": 256,
    "intermediate_size": 704, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 2048, "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 1,
    "pad_token_id": 2,
}  # fmt: skip
"""12.6 million parameters."""

LARGE_LLAMA: dict[str, Any] = {
    **SMALL_LLAMA, "vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 4096,
}  # fmt: skip
"""1.2 billion parameters, the shape of Llama 3.2 1B."""

MEDIAN_TOKENS, SPREAD = 330, 1.05
"""Lengths are log-normal: a mean of some 500 tokens, a tail beyond 2,048 that is cut."""

LEAST_TOKENS = 24
SEED = 17


@dataclass(frozen=True)
class Workload:
    """What is trained."""

    max_length_tokens: int
    rows_per_step: int
    steps: int
    dtype: str
    method: str
    """`full` or `lora`."""

    on_gpu: bool

    @property
    def config(self) -> dict[str, Any]:
        """The model."""
        return LARGE_LLAMA if self.on_gpu else SMALL_LLAMA


@dataclass(frozen=True)
class Conversation:
    """Token ids, and half-open spans of those that are trained."""

    ids: np.ndarray[Any, Any]
    spans: tuple[tuple[int, int], ...]

    def labels(self) -> list[int]:
        """As peers have them: -100 where a token is not trained."""
        labels = np.full(len(self.ids), -100)
        for start, end in self.spans:
            labels[start:end] = self.ids[start:end]
        return [int(one) for one in labels]


def make_conversations(workload: Workload) -> list[Conversation]:
    """Conversations for a little more than all steps; turns of a third question, two thirds answer."""
    random = np.random.default_rng(SEED)
    wanted = workload.max_length_tokens * workload.rows_per_step * workload.steps
    made: list[Conversation] = []
    while sum(len(one.ids) for one in made) < wanted * 1.02:
        length = int(np.clip(random.lognormal(np.log(MEDIAN_TOKENS), SPREAD), LEAST_TOKENS, workload.max_length_tokens))
        ids = 3 + (random.zipf(1.3, length) % (workload.config["vocab_size"] - 3))
        turns = int(random.integers(1, 4))
        edges = np.linspace(0, length, turns + 1).astype(int)
        spans = tuple((int(a + (b - a) * 0.35) + 1, int(b)) for a, b in zip(edges, edges[1:], strict=False))
        made.append(Conversation(ids.astype(np.int64), spans))
    return made


def pack(lengths: list[int], capacity: int) -> list[list[int]]:
    """Best fit, longest first: rows of at most `capacity` tokens."""
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda one: -lengths[one]):
        fitting = [row for row, free in enumerate(room) if free >= lengths[index]]
        if fitting:
            best = min(fitting, key=lambda row: room[row])
            rows[best].append(index)
            room[best] -= lengths[index]
        else:
            rows.append([index])
            room.append(capacity - lengths[index])
    return rows


def prepare(workload: Workload, work: Path) -> None:
    """Make `work`: model, cache and order of steps."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tunewright.trainer.dataset import DataOrder

    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**workload.config)).save_pretrained(work / "model")
    _make_tokenizer(work / "model")
    conversations = make_conversations(workload)
    rows = pack([len(one.ids) for one in conversations], workload.max_length_tokens)
    order = DataOrder(len(rows), workload.rows_per_step, SEED)
    steps = [[rows[row] for row in order.rows_of(step)] for step in range(workload.steps)]
    (work / "steps.json").write_text(json.dumps(steps))
    (work / "workload.json").write_text(json.dumps(asdict(workload)))
    _write_cache(work / "cache", workload, conversations, rows)


def _make_tokenizer(directory: Path) -> None:
    """One that nobody asks for a token: the data are ids."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"<s>": 0, "</s>": 1, "<pad>": 2}, unk_token="<s>"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", pad_token="<pad>").save_pretrained(directory)


def _write_cache(root: Path, workload: Workload, conversations: list[Conversation], rows: list[list[int]]) -> None:
    """As `dataset-cacher` would leave it."""
    import pyarrow as pa

    from tunewright.contracts.datasets import DatasetManifest, FileRecord, ShardRecord
    from tunewright.contracts.files import write_json_atomically
    from tunewright.contracts.spec import digest_of

    key = {"benchmark": asdict(workload), "chat_template": {"name": "none", "source": "{{ messages }}"}}
    cache = root / digest_of(key)
    cache.mkdir(parents=True, exist_ok=True)
    spans = [[edge for span in one.spans for edge in span] for one in conversations]
    ids = [one.ids for one in conversations]
    tables = {
        "tokens-00000.arrow": {"input_ids": pa.array(ids, pa.list_(pa.uint32())), "spans": pa.array(spans)},
        "packing.arrow": {"rows": pa.array(rows, pa.list_(pa.uint32()))},
    }
    for name, columns in tables.items():
        table = pa.table(columns)
        with pa.OSFile(str(cache / name), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    write_json_atomically(cache / "statistics.json", {})
    counts: dict[str, Any] = {
        "rows": len(conversations),
        "tokens": sum(len(one.ids) for one in conversations),
        "trained_tokens": sum(end - start for one in conversations for start, end in one.spans),
    }
    shard = ShardRecord(**FileRecord.of(cache, "tokens-00000.arrow").model_dump(), **counts)
    manifest = DatasetManifest(
        format_version=1, digest=digest_of(key), key=key, id_type="uint32", eos_token_id=1, pad_token_id=2,
        vocabulary_size=workload.config["vocab_size"], shards=(shard,), **counts,
        packing=FileRecord.of(cache, "packing.arrow"), statistics=FileRecord.of(cache, "statistics.json"),
    )  # fmt: skip
    write_json_atomically(cache / "manifest.json", manifest.to_document())


def load_workload(work: Path) -> tuple[Workload, list[Conversation], list[list[list[int]]]]:
    """What `prepare` made: the workload, its conversations, and of each step the rows of conversations."""
    workload = Workload(**json.loads((work / "workload.json").read_text()))
    return workload, make_conversations(workload), json.loads((work / "steps.json").read_text())


def main() -> None:
    """Make the directory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--workload", required=True, help="as JSON")
    arguments = parser.parse_args()
    prepare(Workload(**json.loads(arguments.workload)), arguments.work)


if __name__ == "__main__":
    main()
