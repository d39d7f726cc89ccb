"""One way to prepare the corpus, in a process of its own; `preparation.py` starts it and takes its answer.

    PYTHON -m benchmarks.dataset_cacher.ways WAY --conversations FILE --tokenizer DIRECTORY --output DIRECTORY

A way's clock starts when its libraries are imported and its tokenizer is loaded: what a peer takes to start is not held
against it. The answer, one JSON document on the last line of stdout, has what was spent and a digest of what came out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from benchmarks.dataset_cacher.corpus import Message, read_messages, render

# The peers live in a virtual environment of their own and are no dependency of this repository: `import_module`.

IGNORED = -100
"""The label of a token that is not trained."""


@dataclass(frozen=True)
class Task:
    """What is to be prepared, and where to."""

    conversations: Path
    tokenizer: Path
    output: Path
    max_length_tokens: int
    batch_rows: int


Chunk = tuple[Any, Any, Any]
"""Some rows, as numpy arrays: their lengths, their ids one after the other, whether each id is trained."""


@dataclass(frozen=True)
class Columns:
    """What a way left: its rows, and its bytes on disk."""

    chunks: Iterable[Chunk] = ()

    disk_bytes: int = 0
    tokens: int = 0
    """Counted by ways that leave no columns."""


Work = Callable[[], Columns]
"""The part of a way that the clock sees."""


def cpu_seconds() -> float:
    """User and system time of this process and of its children that ended."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def transformers_map(task: Task) -> Work:
    """`datasets.map` with `apply_chat_template(return_assistant_tokens_mask=True)`, saved to disk."""
    tokenizer = _load_tokenizer(task)
    load = _json_loader(task)

    def encode(batch: dict[str, Any]) -> dict[str, Any]:
        encoded = tokenizer.apply_chat_template(
            batch["messages"],
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            truncation=True,
            max_length=task.max_length_tokens,
        )
        return dict(encoded)

    def work() -> Columns:
        dataset = load()
        dataset = dataset.map(
            encode, batched=True, batch_size=task.batch_rows, remove_columns=dataset.column_names, num_proc=None
        )
        return _saved(dataset, task.output, "assistant_masks")

    return work


def tokenizers_raw(task: Task) -> Work:
    """`tokenizers`' `encode_batch` of texts that are rendered already; what it gives is thrown away."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(task.tokenizer / "tokenizer.json"))
    batches = _rendered_batches(task)

    def work() -> Columns:
        encoded = (tokenizer.encode_batch(batch, add_special_tokens=False) for batch in batches)
        return Columns(tokens=sum(len(one) for batch in encoded for one in batch))

    return work


def fastokens_raw(task: Task) -> Work:
    """fastokens' `encode_batch_flat` of texts that are rendered already; what it gives is thrown away."""
    fastokens = import_module("fastokens")
    tokenizer = fastokens.Tokenizer.from_file(str(task.tokenizer / "tokenizer.json"))
    batches = _rendered_batches(task)

    def work() -> Columns:
        return Columns(tokens=sum(len(tokenizer.encode_batch_flat(batch)[0]) // 4 for batch in batches))

    return work


def _rendered_batches(task: Task) -> list[list[str]]:
    texts = [render(messages) for messages in read_messages(task.conversations)]
    return [texts[start : start + task.batch_rows] for start in range(0, len(texts), task.batch_rows)]


def trl(task: Task) -> Work:
    """What TRL's SFTTrainer does to its data, with the smallest of models. Only the training is left out."""
    library = import_module("trl")
    transformers = import_module("transformers")
    tokenizer = _load_tokenizer(task)
    load = _json_loader(task)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(task.tokenizer))
    options = library.SFTConfig(
        output_dir=str(task.output / "trl"),
        max_length=task.max_length_tokens,
        assistant_only_loss=True,
        packing=False,
        report_to=[],
        use_cpu=True,
        bf16=False,
    )

    def work() -> Columns:
        trainer = library.SFTTrainer(model=model, args=options, train_dataset=load(), processing_class=tokenizer)
        dataset = trainer.train_dataset
        files = [Path(one["filename"]) for one in dataset.cache_files]
        return Columns(_dataset_chunks(dataset, "labels"), sum(path.stat().st_size for path in files))

    return work


def axolotl(task: Task) -> Work:
    """What `axolotl preprocess` does, with the tokenizer's own template."""
    preprocess = import_module("axolotl.cli.preprocess")
    settings = {
        "base_model": str(task.tokenizer),
        "datasets": [
            {"path": str(task.conversations), "ds_type": "json", "type": "chat_template", "field_messages": "messages"}
        ],
        "chat_template": "tokenizer_default",
        "eot_tokens": ["<|im_end|>"],
        "shuffle_merged_datasets": False,
        "sequence_len": task.max_length_tokens,
        "excess_length_strategy": "truncate",  # its default leaves such rows out
        "dataset_prepared_path": str(task.output / "prepared"),
        "output_dir": str(task.output / "axolotl"),
        "dataset_num_proc": 1,
        "micro_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "num_epochs": 1,
        "learning_rate": 1e-5,
        "optimizer": "adamw_torch",
        "val_set_size": 0,
    }
    file = task.output / "axolotl.yml"
    file.write_text(json.dumps(settings, indent=2), encoding="utf-8")  # JSON is YAML

    def work() -> Columns:
        preprocess.do_cli(config=str(file))
        (prepared,) = (path.parent for path in (task.output / "prepared").glob("*/dataset_info.json"))
        dataset = import_module("datasets").load_from_disk(str(prepared))
        return Columns(_dataset_chunks(dataset, "labels"), _bytes_below(prepared))

    return work


def open_instruct(task: Task) -> Work:
    """open-instruct's rule as it is now: render, encode once with offsets, spans from rendered prefixes of text."""
    tokenizer = _load_tokenizer(task)

    def encode(row: dict[str, Any]) -> dict[str, Any]:
        messages = row["messages"]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        encoded = tokenizer(
            text, add_special_tokens=False, truncation=True, max_length=task.max_length_tokens,
            return_offsets_mapping=True,
        )  # fmt: skip
        spans = _spans_of_answers(tokenizer, messages, text)
        labels = [
            token if any(start < to and end > since for since, to in spans) else IGNORED
            for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"], "labels": labels}

    return _map_and_filter(task, encode)


def _spans_of_answers(tokenizer: Any, messages: list[Message], text: str) -> list[tuple[int, int]]:
    """Each answer's characters: from the rendered question for it to the rendered conversation up to it."""
    spans = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = messages[:index]
        header = tokenizer.apply_chat_template(before, tokenize=False, add_generation_prompt=True) if index else ""
        through = tokenizer.apply_chat_template(messages[: index + 1], tokenize=False)
        if not (text.startswith(header) and text.startswith(through)):
            raise ValueError("the template is not stable in its prefixes")
        spans.append((len(header), len(through)))
    return spans


def open_instruct_prefixes(task: Task) -> Work:
    """open-instruct's rule as it was, and as its fall-back is: every prefix of the conversation is encoded again."""
    tokenizer = _load_tokenizer(task)

    def ids_of(messages: list[Message], **options: Any) -> list[int]:
        ids: list[int] = tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=False, truncation=True, max_length=task.max_length_tokens, **options
        )
        return ids

    def encode(row: dict[str, Any]) -> dict[str, Any]:
        messages = row["messages"]
        ids = ids_of(messages)
        labels = list(ids)
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                continue
            start = len(ids_of(messages[:index])) if index else 0
            is_asked = index + 1 < len(messages) and messages[index + 1]["role"] == "assistant"
            end = len(ids_of(messages[: index + 1], add_generation_prompt=is_asked))
            labels[start:end] = [IGNORED] * (min(end, len(ids)) - start)
            if end >= task.max_length_tokens:
                break
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}

    return _map_and_filter(task, encode)


def _map_and_filter(task: Task, encode: Callable[[dict[str, Any]], dict[str, Any]]) -> Work:
    """Row by row, then without the rows in which nothing is trained, as open-instruct does both."""
    load = _json_loader(task)

    def work() -> Columns:
        dataset = load()
        dataset = dataset.map(encode, remove_columns=dataset.column_names, num_proc=None)
        dataset = dataset.filter(lambda row: any(label != IGNORED for label in row["labels"]), num_proc=None)
        return _saved(dataset, task.output, "labels")

    return work


def read_ours(task: Task) -> Work:
    """Not a way: the digest of a cache that ours made, at `--output`."""
    import pyarrow as arrow

    def chunks() -> Iterator[Chunk]:
        numpy = import_module("numpy")
        for path in sorted(task.output.glob("tokens-*.arrow")):
            with arrow.memory_map(str(path)) as source:
                reader = arrow.ipc.open_file(source)
                for index in range(reader.num_record_batches):
                    batch = reader.get_batch(index)
                    ids, spans = batch.column("input_ids"), batch.column("spans")
                    lengths = ids.value_lengths().to_numpy()
                    first = numpy.repeat(numpy.cumsum(lengths) - lengths, spans.value_lengths().to_numpy())
                    edges = spans.flatten().to_numpy().astype(numpy.int64) + first
                    changes = numpy.zeros(int(lengths.sum()) + 1, dtype=numpy.int8)
                    numpy.add.at(changes, edges[::2], 1)
                    numpy.subtract.at(changes, edges[1::2], 1)
                    yield lengths, ids.flatten().to_numpy(), numpy.cumsum(changes)[:-1] > 0

    return lambda: Columns(chunks(), _bytes_below(task.output))


def _load_tokenizer(task: Task) -> Any:
    return import_module("transformers").AutoTokenizer.from_pretrained(str(task.tokenizer))


def _json_loader(task: Task) -> Callable[[], Any]:
    """Reads the conversations as every user of `datasets` does; the clock sees it when it is called."""
    datasets = import_module("datasets")
    datasets.disable_progress_bars()
    return lambda: datasets.load_dataset("json", data_files=str(task.conversations), split="train").select_columns(
        ["messages"]
    )


def _saved(dataset: Any, directory: Path, mask_column: str) -> Columns:
    dataset.save_to_disk(str(directory / "saved"))
    return Columns(_dataset_chunks(dataset, mask_column), _bytes_below(directory / "saved"))


def _dataset_chunks(dataset: Any, mask_column: str) -> Iterator[Chunk]:
    """The columns of a `datasets.Dataset`, a few thousand rows at a time."""
    arrow_format = dataset.with_format("arrow")
    for start in range(0, len(dataset), 2048):
        table = arrow_format[start : start + 2048]
        ids = table.column("input_ids").combine_chunks()
        mask = table.column(mask_column).combine_chunks().flatten().to_numpy(zero_copy_only=False)
        is_trained = mask != IGNORED if mask_column == "labels" else mask != 0
        yield ids.value_lengths().to_numpy(), ids.flatten().to_numpy(zero_copy_only=False), is_trained


def _bytes_below(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def summary_of(columns: Columns) -> dict[str, Any]:
    """Counts, and a digest of the ids of all rows in which something is trained: equal ids, equal digest."""
    counts = {"rows": 0, "tokens": columns.tokens, "trained_tokens": 0}
    digest = hashlib.sha256()
    for lengths, ids, is_trained in columns.chunks:
        numpy = import_module("numpy")
        rows = numpy.repeat(numpy.arange(len(lengths)), lengths)
        trained_by_row = numpy.bincount(rows, weights=is_trained, minlength=len(lengths))
        is_kept = trained_by_row > 0
        kept_ids = ids[is_kept[rows]]
        digest.update(kept_ids.astype("<u4").tobytes())
        counts["rows"] += int(is_kept.sum())
        counts["tokens"] += len(kept_ids)
        counts["trained_tokens"] += int(trained_by_row.sum())
    return {**counts, "ids_sha256": digest.hexdigest() if counts["rows"] else None, "disk_bytes": columns.disk_bytes}


WAYS: dict[str, tuple[Callable[[Task], Work], tuple[str, ...]]] = {
    "transformers": (transformers_map, ("transformers", "datasets", "tokenizers")),
    "tokenizers": (tokenizers_raw, ("tokenizers",)),
    "fastokens": (fastokens_raw, ("fastokens",)),
    "trl": (trl, ("trl", "transformers", "datasets", "tokenizers")),
    "axolotl": (axolotl, ("axolotl", "transformers", "datasets", "tokenizers")),
    "open-instruct": (open_instruct, ("transformers", "datasets", "tokenizers")),
    "open-instruct-prefixes": (open_instruct_prefixes, ("transformers", "datasets", "tokenizers")),
    "read-ours": (read_ours, ("pyarrow",)),
}
"""Each way, and the libraries whose versions its answer names."""


def main() -> None:
    """Do one of them and answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=sorted(WAYS))
    parser.add_argument("--conversations", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--max-length-tokens", type=int, default=4096)
    parser.add_argument("--batch-rows", type=int, default=1000)
    values = vars(parser.parse_args())
    prepare, libraries = WAYS[values.pop("way")]
    stdout = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries may say what they like
    work = prepare(Task(**values))
    started, cpu_before = time.perf_counter(), cpu_seconds()
    columns = work()
    spent = {"work_wall_seconds": time.perf_counter() - started, "work_cpu_seconds": cpu_seconds() - cpu_before}
    versions = {name: metadata.version(name) for name in libraries}
    answer = {**spent, **summary_of(columns), "versions": versions}
    with os.fdopen(stdout, "w") as file:
        file.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
