"""A cache as OLMo-core reads it: raw arrays of token ids and loss masks, as open-instruct's conversion writes them.

token_ids_part_0000.npy      token ids in the smallest unsigned type: the bytes alone, without numpy's header
labels_mask_part_0000.npy    a byte for each token, 1 where it counts in the loss
token_ids_part_0000.csv.gz   `start,end` of each document in the part; one over a border is in both parts
tokenizer/                   the tokenizer
dataset_statistics.json/txt  counts, for people
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tunewright.contracts.datasets import DatasetManifest
from tunewright.contracts.files import json_text
from tunewright.dataset_cacher.views.batches import FlatRows

_CONFIG_FILE = "tokenizer_config.json"


class _Part:
    """The three files of one part, open."""

    def __init__(self, directory: Path, number: int) -> None:
        self.tokens = 0
        self._ids: BinaryIO = (directory / f"token_ids_part_{number:04d}.npy").open("wb")
        self._mask: BinaryIO = (directory / f"labels_mask_part_{number:04d}.npy").open("wb")
        self._packed: BinaryIO = (directory / f"token_ids_part_{number:04d}.csv.gz").open("wb")
        # Without a name and a time in it: equal caches give equal files.
        self._documents = io.TextIOWrapper(gzip.GzipFile(filename="", mode="wb", fileobj=self._packed, mtime=0))

    def write(self, batch: FlatRows, start: int, end: int) -> None:
        """Append the tokens `start` to `end` of the batch."""
        self._ids.write(batch.ids[start:end].data)
        self._mask.write(batch.trained[start:end].data)
        first, last = np.searchsorted(batch.edges, (start, end), side="right")
        borders = np.unique(np.clip(batch.edges[first - 1 : last + 1], start, end)) - start + self.tokens
        pairs = zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True)
        self._documents.write("".join(f"{one},{other}\n" for one, other in pairs))
        self.tokens += end - start

    def close(self) -> None:
        """Write what is left."""
        for file in (self._ids, self._mask, self._documents, self._packed):
            file.close()


def write_olmo(
    cache: Path, manifest: DatasetManifest, batches: Iterable[FlatRows], target: Path, chunk_bytes: int
) -> None:
    """Make the directory `target` with parts of `chunk_bytes` of ids each; the last one has what is left."""
    target.mkdir()
    _write_parts(batches, target, max(1, chunk_bytes // np.dtype(manifest.id_type).itemsize))
    if manifest.tokenizer is not None:
        _write_tokenizer(cache, manifest, target / "tokenizer")
    statistics = _statistics(manifest)
    (target / "dataset_statistics.json").write_text(json_text(statistics), encoding="utf-8")
    (target / "dataset_statistics.txt").write_text(_as_text(statistics), encoding="utf-8")


def _write_parts(batches: Iterable[FlatRows], target: Path, part_tokens: int) -> None:
    part, number = None, 0
    try:
        for batch in batches:
            start = 0
            while start < len(batch.ids):
                if part is None:
                    part = _Part(target, number)
                end = min(len(batch.ids), start + part_tokens - part.tokens)
                part.write(batch, start, end)
                start = end
                if part.tokens == part_tokens:
                    part.close()
                    part, number = None, number + 1
    finally:
        if part is not None:
            part.close()


def _write_tokenizer(cache: Path, manifest: DatasetManifest, target: Path) -> None:
    """What transformers opens: the tokenizer, and what the key of the cache says of its special tokens and template."""
    assert manifest.tokenizer is not None
    target.mkdir()
    shutil.copyfile(cache / manifest.tokenizer.file, target / "tokenizer.json")
    named = manifest.key.get("tokenizer") or {}
    template = (manifest.key.get("chat_template") or {}).get("source")
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **(named.get("named_tokens") or {})}
    if others := named.get("other_tokens"):
        config["additional_special_tokens"] = others
    if template:
        config["chat_template"] = template
    (target / _CONFIG_FILE).write_text(json_text(config), encoding="utf-8")


def _statistics(manifest: DatasetManifest) -> dict[str, Any]:
    """Under open-instruct's names. Left out are its time stamp and output directory: equal caches give equal files."""
    return {
        "cache_digest": manifest.digest,
        "configuration": {
            "max_sequence_length": manifest.key["max_length_tokens"],
            "chat_template": (manifest.key.get("chat_template") or {}).get("name"),
        },
        "per_dataset_statistics": [_source(source, number, manifest) for number, source in enumerate(manifest.sources)],
        "overall_statistics": {
            "total_datasets": len(manifest.sources),
            "total_instances": manifest.rows,
            "total_tokens": manifest.tokens,
            "trainable_tokens": manifest.trained_tokens,
            "trainable_percentage": 100 * manifest.trained_tokens / manifest.tokens,
            "instances_filtered": sum(manifest.dropped.values()),
            "average_sequence_length": manifest.tokens / manifest.rows,
        },
    }


def _source(source: dict[str, Any], number: int, manifest: DatasetManifest) -> dict[str, Any]:
    rows, tokens, dropped = source["rows"], source["tokens"], sum(source["dropped"].values())
    return {
        "dataset_name": source.get("name", f"mix[{number}]"),
        "initial_instances": source.get("rows_taken", rows + dropped),
        "instances_filtered_during_transformation": dropped,
        "original_dataset_size": source.get("rows_available"),
        "is_upsampled": bool(source.get("rows_repeated")),
        "final_instances_in_output": rows,
        "final_tokens_in_output": tokens,
        "final_trainable_tokens_in_output": source["trained_tokens"],
        "instances_filtered_after_tokenization": 0,
        "avg_tokens_per_instance": tokens / rows if rows else 0,
        "percentage_of_total_tokens": 100 * tokens / manifest.tokens,
        "percentage_of_total_instances": 100 * rows / manifest.rows,
    }


def _as_text(statistics: dict[str, Any]) -> str:
    return "\n".join(["Dataset Statistics Report", "=" * 80, *_lines(statistics, "")]) + "\n"


def _lines(document: dict[str, Any], indent: str) -> Iterator[str]:
    for name, value in document.items():
        if isinstance(value, dict):
            yield f"{indent}{name}:"
            yield from _lines(value, f"{indent}  ")
        elif isinstance(value, list):
            for one in value:
                yield f"{indent}{name}:"
                yield from _lines(one, f"{indent}  ")
        else:
            yield f"{indent}- {name}: {json.dumps(value, ensure_ascii=False)}"
