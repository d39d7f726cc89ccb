"""What turns text into token ids: `fastokens`, many times as fast, or `tokenizers`, the reference for every id."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tunewright.contracts.errors import InvalidExperiment

ENGINE_VARIABLE = "TUNEWRIGHT_TOKENIZER_ENGINE"
"""Asks for one engine by name; without it the fastest one that passes the self-check is taken."""

FAST_THREADS_VARIABLE = "FASTOKENS_BPE_THREADS"
"""How many threads a batch is spread over: fastokens reads it once in a process, when it encodes for the first time."""

REFERENCE = "tokenizers"
FAST = "fastokens"
ENGINES = (FAST, REFERENCE)


@dataclass(frozen=True)
class TokenBatch:
    """The tokens of several texts, one behind the other."""

    ids: NDArray[Any]
    """Shape (tokens,), of an unsigned type."""

    ends: NDArray[np.int64]
    """Shape (texts,): where each text's tokens end in `ids`."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """Tokens of each text."""
        return np.diff(self.ends, prepend=0)

    def cast(self, id_type: np.dtype[Any]) -> TokenBatch:
        """The same with ids of another type."""
        return TokenBatch(self.ids.astype(id_type, copy=False), self.ends)


class Engine(Protocol):
    """Encodes as a Hugging Face tokenizer does with `add_special_tokens=False`, without truncation."""

    name: str
    version: str

    def encode(self, texts: Sequence[str]) -> TokenBatch:
        """The tokens of each text."""


class ReferenceEngine:
    """Hugging Face's own library."""

    name = REFERENCE

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.version = metadata.version(REFERENCE)
        self._tokenizer = tokenizer

    def encode(self, texts: Sequence[str]) -> TokenBatch:
        """The tokens of each text."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        ids = [np.asarray(encoding.ids, dtype=np.uint32) for encoding in encodings]
        ends = np.cumsum([len(one) for one in ids], dtype=np.int64)
        return TokenBatch(np.concatenate(ids) if ids else np.empty(0, np.uint32), ends)


class FastEngine:
    """fastokens: byte-pair encoding without offsets, all tokens of a batch in one buffer."""

    name = FAST

    def __init__(self, tokenizer_json: str) -> None:
        # Raises what it raises for a tokenizer that it does not take: the caller falls back.
        from fastokens._native import Tokenizer as FastTokenizer  # the package's own module would patch transformers

        self.version = metadata.version(FAST)
        self._tokenizer: Any = FastTokenizer.from_json_str(tokenizer_json)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, texts: Sequence[str]) -> TokenBatch:
        """The tokens of each text."""
        ids, bounds = self._tokenizer.encode_batch_flat(list(texts), add_special_tokens=False)
        return TokenBatch(np.frombuffer(ids, "<u4"), np.frombuffer(bounds, "<u8")[1:].astype(np.int64))


def limit_threads(is_one_of_several: bool) -> None:
    """Let a process that is one of several have one thread, and any process as many as `RAYON_NUM_THREADS` says.

    By that variable users limit `tokenizers`; fastokens does not look at it. What a user has told it by its own, stays.
    """
    wanted = "1" if is_one_of_several else os.environ.get("RAYON_NUM_THREADS")
    if wanted:
        os.environ.setdefault(FAST_THREADS_VARIABLE, wanted)


def wanted_engine() -> str | None:
    """The engine that the environment asks for. Raises InvalidExperiment for one that there is not."""
    name = os.environ.get(ENGINE_VARIABLE) or None
    if name is not None and name not in ENGINES:
        raise InvalidExperiment(f"{ENGINE_VARIABLE}={name}: no such engine", f"allowed: {', '.join(ENGINES)}")
    return name
