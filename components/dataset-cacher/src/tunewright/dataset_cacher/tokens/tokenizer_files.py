"""What the files of a tokenizer say: its special tokens, its chat template, its digest. Nothing is tokenized here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.contracts.errors import InvalidExperiment, NotFound, Problem, Unavailable

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
TEMPLATE_FILE = "chat_template.jinja"
FILES = (TOKENIZER_FILE, CONFIG_FILE, SPECIAL_TOKENS_FILE, TEMPLATE_FILE)

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The special tokens that have a name: transformers gives them to templates as variables."""


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer's directory, as far as the tokens depend on it."""

    directory: Path
    sha256: str
    """SHA-256 of `tokenizer.json`."""

    named_tokens: dict[str, str]
    """`eos_token` and the like; only those that are set."""

    other_tokens: tuple[str, ...]
    """Further texts that are one token each, in the order of the configuration."""

    chat_template: str | None

    @property
    def tokenizer(self) -> Path:
        """The file that `tokenizers` loads."""
        return self.directory / TOKENIZER_FILE


def read_tokenizer_files(directory: Path, sha256_of: Callable[[Path], str]) -> TokenizerFiles:
    """The tokenizer in `directory`. Raises InvalidExperiment where there is none that `tokenizers` can load."""
    if not directory.is_dir():
        raise NotFound(f"model.name_or_path: no such directory: {directory}")
    if not (directory / TOKENIZER_FILE).is_file():
        message = f"{directory} has no {TOKENIZER_FILE}"
        hint = "save its tokenizer with transformers: `AutoTokenizer.from_pretrained(...).save_pretrained(...)`"
        raise InvalidExperiment.from_problems("experiment", [Problem("model.name_or_path", message, hint)])
    # The map is what older versions of transformers wrote; the configuration has the last word.
    config = _read_object(directory / SPECIAL_TOKENS_FILE) | _read_object(directory / CONFIG_FILE)
    named = {name: text for name in NAMED_TOKENS if (text := _token_text(config.get(name))) is not None}
    return TokenizerFiles(
        directory=directory,
        sha256=sha256_of(directory / TOKENIZER_FILE),
        named_tokens=named,
        other_tokens=tuple(dict.fromkeys(_other_tokens(config))),
        chat_template=_chat_template(directory, config),
    )


def fetch_tokenizer(name: str, revision: str | None, local_only: bool) -> Path:
    """The directory with the tokenizer's files of the hub id `name`; with `local_only`, without any network.

    Raises Unavailable where the hub cannot be reached, or the files are not in the local cache.
    """
    import os

    # Progress bars of its own would break ours.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub import snapshot_download

    try:
        directory = snapshot_download(name, revision=revision, allow_patterns=list(FILES), local_files_only=local_only)
    except Exception as error:  # of many kinds: network, authorisation, not found, not in the local cache
        words = f"model.name_or_path: the tokenizer of `{name}` at {revision} could not be had"
        reason = str(error).strip().split("\n")[0]
        hint = "`dataset-cacher prepare` fetches it" if local_only else "is the network up?"
        raise Unavailable(f"{words}: {type(error).__name__}: {reason}", hint) from None
    return Path(directory)


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidExperiment(f"{path}: is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidExperiment(f"{path}: must be an object")
    return document


def _token_text(token: Any) -> str | None:
    """A token is written as text, or as an object with its text in `content`."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _other_tokens(config: dict[str, Any]) -> list[str]:
    added = config.get("added_tokens_decoder") or {}
    further = [config.get(name) or [] for name in ("additional_special_tokens", "extra_special_tokens")]
    groups = [added.values(), *(group.values() if isinstance(group, dict) else group for group in further)]
    return [text for group in groups for token in group if (text := _token_text(token)) is not None]


def _chat_template(directory: Path, config: dict[str, Any]) -> str | None:
    """The template file, else the configuration's; of several named ones, the one called `default`."""
    if (directory / TEMPLATE_FILE).is_file():
        return (directory / TEMPLATE_FILE).read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        template = next((one.get("template") for one in template if one.get("name") == "default"), None)
    return template if isinstance(template, str) else None
