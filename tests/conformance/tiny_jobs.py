"""Small trainings made on the spot: a model, a dataset cache and a job, as the other components would leave them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tunewright.contracts.datasets import CachedDataset, DatasetManifest, FileRecord, ShardRecord
from tunewright.contracts.environments import CodeOrigin
from tunewright.contracts.experiment import ExperimentSpec
from tunewright.contracts.files import write_json_atomically
from tunewright.contracts.jobs import JobSpec, LaunchOrigin, ModelReference, Resources
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.spec import digest_of

VOCABULARY_SIZE = 128
CHAT_TEMPLATE = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"

TINY_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}


def make_model(directory: Path, **changes: Any) -> Path:
    """A model directory with a configuration and a tokenizer, without weights."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    directory.mkdir(parents=True, exist_ok=True)
    write_json_atomically(directory / "config.json", {**TINY_CONFIG, **changes})
    words = {f"w{index}": index for index in range(VOCABULARY_SIZE)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0")), eos_token="w1")
    tokenizer.save_pretrained(directory)
    return directory


def save_weights(directory: Path, seed: int = 0) -> None:
    """Weights for the model in `directory`, drawn from `seed`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory)).save_pretrained(directory)


@dataclass(frozen=True)
class Conversation:
    """Token ids and the spans of them that are trained."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


def make_conversations(count: int, seed: int = 0, longest: int = 24) -> list[Conversation]:
    """`count` conversations of random words in a pattern that can be learned; the last part of each is trained."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        length = int(random.integers(5, longest))
        first, stride = int(random.integers(3, 20)), int(random.integers(1, 3))
        ids = [3 + (first + stride * position) % 40 for position in range(length - 1)]
        middle = int(random.integers(1, length - 2))
        made.append(
            Conversation(
                (*ids, 1), ((middle, middle + 1), (middle + 2, length)) if middle + 2 < length else ((middle, length),)
            )
        )
    return made


def make_pairs(count: int, seed: int = 0, longest: int = 24) -> list[Conversation]:
    """`count` pairs of conversations, the chosen one before the rejected one, whose answers follow one prompt.

    Chosen answers go on with the prompt's pattern, rejected ones are random.
    """
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        start, size = int(random.integers(3, 20)), int(random.integers(3, longest // 2))
        prompt = tuple(3 + (start + position) % 40 for position in range(size))
        for is_chosen in (True, False):
            length = int(random.integers(2, longest // 2))
            pattern = tuple(3 + (start + size + position) % 40 for position in range(length))
            answer = pattern if is_chosen else tuple(random.integers(43, 100, length).tolist())
            made.append(Conversation((*prompt, *answer, 1), ((size, size + length + 1),)))
    return made


def make_cache(
    root: Path,
    conversations: Sequence[Conversation],
    packed: Sequence[Sequence[int]] = (),
    shards: int = 2,
    sequences_per_example: int = 1,
) -> Path:
    """A dataset cache below `root`, laid out as the contract says. `packed` is the packing plan."""
    num_examples = len(conversations) // sequences_per_example
    key = {
        "rows": digest_of([[list(one.ids), [list(span) for span in one.spans]] for one in conversations]),
        "packing": [list(row) for row in packed],
        "sequences_per_example": sequences_per_example,
        "chat_template": {"name": "test", "source": CHAT_TEMPLATE},
    }
    cache = root / digest_of(key)
    cache.mkdir(parents=True)
    bounds = np.linspace(0, num_examples, min(shards, num_examples) + 1).astype(int) * sequences_per_example
    records = tuple(
        _write_shard(cache, index, conversations[start:end]) for index, (start, end) in enumerate(pairwise(bounds))
    )
    examples = [range(row, row + sequences_per_example) for row in range(0, len(conversations), sequences_per_example)]
    plan = packed or examples
    _write_arrow(cache / "packing.arrow", {"rows": pa.array([list(row) for row in plan], pa.list_(pa.uint32()))})
    write_json_atomically(cache / "statistics.json", {})
    manifest = DatasetManifest(
        format_version=1,
        digest=digest_of(key),
        key=key,
        id_type="uint8",
        vocabulary_size=VOCABULARY_SIZE,
        eos_token_id=1,
        pad_token_id=2,
        rows=len(conversations),
        sequences_per_example=sequences_per_example,
        tokens=sum(record.tokens for record in records),
        trained_tokens=sum(record.trained_tokens for record in records),
        shards=records,
        packing=FileRecord.of(cache, "packing.arrow"),
        statistics=FileRecord.of(cache, "statistics.json"),
    )
    write_json_atomically(cache / "manifest.json", manifest.to_document())
    return cache


def _write_shard(cache: Path, index: int, conversations: Sequence[Conversation]) -> ShardRecord:
    name = f"tokens-{index:05}.arrow"
    columns = {
        "input_ids": pa.array([list(one.ids) for one in conversations], pa.list_(pa.uint8())),
        "spans": pa.array(
            [[edge for span in one.spans for edge in span] for one in conversations], pa.list_(pa.uint32())
        ),
        "source": pa.array([0] * len(conversations), pa.uint16()),
        "row": pa.array(range(len(conversations)), pa.uint32()),
    }
    _write_arrow(cache / name, columns)
    record = FileRecord.of(cache, name)
    return ShardRecord(
        **record.model_dump(),
        rows=len(conversations),
        tokens=sum(len(one.ids) for one in conversations),
        trained_tokens=sum(end - start for one in conversations for start, end in one.spans),
    )


def _write_arrow(path: Path, columns: Mapping[str, Any]) -> None:
    table = pa.table(dict(columns))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)


def make_job(
    root: Path,
    model: Path,
    cache: Path,
    *,
    run: str = "run",
    weights: str = "random",
    packing: bool = False,
    processes: int = 1,
    nodes: int = 1,
    seed: int = 17,
    dtype: str = "float32",
    model_options: Mapping[str, Any] | None = None,
    checkpoint: Mapping[str, Any] | None = None,
    tables: Mapping[str, Any] | None = None,
    **training: Any,
) -> Path:
    """`job.json` of run `run` below `root`. `training` are keys of `[training]`; `tables` are whole tables."""
    document = {
        "name": "tiny",
        "seed": seed,
        "model": {"name_or_path": str(model), "weights": weights, "dtype": dtype, **(model_options or {})},
        "dataset": {"max_length_tokens": 64, "packing": packing, "mix": [{"source": "tiny.jsonl"}]},
        "training": {"batch_size": 4, "micro_batch_size": 2, "learning_rate": 5e-3, **training},
        "checkpoint": dict(checkpoint or {"every": "epoch"}),
        "cluster": {"nodes": nodes, "processes_per_node": processes},
        **(tables or {}),
    }
    run_dir = RunDir.of(root, run)
    run_dir.path.mkdir(parents=True)
    job = JobSpec(
        run=run,
        run_dir=str(run_dir.path),
        command=("trainer", "train", str(run_dir.job)),
        resources=Resources(nodes=nodes, processes_per_node=processes),
        experiment=ExperimentSpec.model_validate(document),
        model=ModelReference(name_or_path=str(model)),
        dataset=CachedDataset(digest=cache.name, path=str(cache)),
        origin=LaunchOrigin(code=CodeOrigin(commit="c" * 40), user="tester", host="here", plugins={}),
    )
    write_json_atomically(run_dir.job, job.to_document())
    write_json_atomically(run_dir.resolved, document)
    return run_dir.job


def start_trainer(*arguments: str | Path, **variables: str) -> subprocess.Popen[str]:
    """The trainer's command line as a process tree of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **variables}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    return subprocess.Popen(
        [sys.executable, "-m", "tunewright.trainer", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def run_trainer(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The same, to its end."""
    process = start_trainer(*arguments, **variables)
    try:
        out, err = process.communicate(timeout=120)
    except BaseException:
        end_tree(process)
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def end_tree(process: subprocess.Popen[str]) -> None:
    """SIGKILL for the process and everything it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def metrics_of(job: Path) -> list[dict[str, Any]]:
    """The lines of the run's `metrics.jsonl`."""
    return [json.loads(line) for line in (job.parent / "metrics.jsonl").read_text().splitlines()]


def model_bytes(job: Path) -> dict[str, bytes]:
    """The weights the run left, by file."""
    return {path.name: path.read_bytes() for path in sorted((job.parent / "model").glob("*.safetensors"))}
