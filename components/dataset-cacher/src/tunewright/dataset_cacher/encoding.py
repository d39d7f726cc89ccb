"""Text to token ids with the characters each token covers: the engine, `tokenizers`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer

from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.dataset_cacher.masking import CharSpan, Rendered
from tunewright.dataset_cacher.tokenizer_files import TokenizerFiles


@dataclass(frozen=True)
class Encoded:
    """The tokens of one conversation."""

    ids: NDArray[Any]
    """In the smallest unsigned type that holds the vocabulary."""

    spans: NDArray[np.uint32]
    """Start, end, start, end, ...: half-open ranges of tokens that count in the loss."""

    is_truncated: bool

    @property
    def num_trained(self) -> int:
        """How many tokens count in the loss."""
        return int(self.spans[1::2].sum() - self.spans[::2].sum())


class Encoder:
    """Encodes as a Hugging Face tokenizer does with `add_special_tokens=False`."""

    def __init__(self, files: TokenizerFiles) -> None:
        self._tokenizer = load_tokenizer(files)
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocabulary_size = max(vocabulary.values()) + 1
        self.id_type = np.dtype(smallest_unsigned_type(self.vocabulary_size))
        self.special_tokens = tuple(dict.fromkeys((*files.named_tokens.values(), *_special_tokens(self._tokenizer))))

    def id_of(self, token: str | None) -> int | None:
        """The id of a token, or None."""
        return None if token is None else self._tokenizer.token_to_id(token)

    def encode(self, rendered: Sequence[Rendered], max_length_tokens: int) -> Iterator[Encoded]:
        """Each text's tokens, cut at the right end; a token counts where any character of it does."""
        encodings = self._tokenizer.encode_batch([one.text for one in rendered], add_special_tokens=False)
        for one, encoding in zip(rendered, encodings, strict=True):
            ids = np.asarray(encoding.ids[:max_length_tokens], dtype=self.id_type)
            offsets = np.asarray(encoding.offsets[:max_length_tokens], dtype=np.int64).reshape(-1, 2)
            spans = token_spans(offsets[:, 0], offsets[:, 1], one.spans)
            yield Encoded(ids, spans, is_truncated=len(encoding.ids) > max_length_tokens)


def token_spans(starts: NDArray[Any], ends: NDArray[Any], spans: Sequence[CharSpan]) -> NDArray[np.uint32]:
    """The tokens whose characters overlap one of `spans`, as runs: start, end, start, end, ..."""
    trained = np.zeros(len(starts) + 2, dtype=np.int8)  # with an untrained token before and after, for the edges
    for start, end in spans:
        trained[1:-1] |= (starts < end) & (ends > start)
    return np.flatnonzero(np.diff(trained)).astype(np.uint32)


def smallest_unsigned_type(vocabulary_size: int) -> str:
    """The name of the smallest unsigned type that holds every id below `vocabulary_size`."""
    return next(f"uint{bits}" for bits in (8, 16, 32) if vocabulary_size <= 2**bits)


def load_tokenizer(files: TokenizerFiles) -> Tokenizer:
    """The tokenizer of `files`, with the special tokens of its configuration, cutting and padding nothing.

    Raises InvalidExperiment for a file that `tokenizers` does not take, and for special tokens it does not have.
    """
    tokenizer = read_tokenizer(files.tokenizer)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    wanted = [*files.named_tokens.items(), *(("added token", token) for token in files.other_tokens)]
    problems = [
        Problem(name, f"`{token}` is not in {files.tokenizer.name}", "save the tokenizer again with transformers")
        for name, token in wanted
        if tokenizer.token_to_id(token) is None
    ]
    if problems:
        raise InvalidExperiment.from_problems(str(files.directory), problems)
    # As transformers does: what the configuration calls a token is one token, wherever it stands.
    tokenizer.add_tokens([AddedToken(token, special=True) for _, token in wanted if token not in known])
    return tokenizer


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in the file `path`."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        raise InvalidExperiment(f"{path}: `tokenizers` cannot read it: {error}") from None


def _special_tokens(tokenizer: Tokenizer) -> list[str]:
    return [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
