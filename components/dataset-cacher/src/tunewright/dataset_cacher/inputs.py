"""Everything that decides the tokens, found and named: files, formats, template, tokenizer; and the key."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tunewright.contracts.dataset_plugins import ChatTemplate, DatasetFormat
from tunewright.contracts.datasets import DatasetRequest
from tunewright.contracts.experiment import DatasetSource
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.spec import digest_of
from tunewright.dataset_cacher.digests import DigestMemory, signature_of
from tunewright.dataset_cacher.sources import SourceFile, find_files
from tunewright.dataset_cacher.templates import choose_template
from tunewright.dataset_cacher.tokenizer_files import TokenizerFiles, fetch_tokenizer, read_tokenizer_files

CACHE_FORMAT_VERSION = 1
"""Raise it when the layout of a cache, or what our own code makes of the same inputs, changes."""

PACKING_ALGORITHM = {"algorithm": "best-fit-decreasing", "version": 1}
TRUNCATION_RULE = "right"
DECIDING_LIBRARIES = ("jinja2", "tokenizers")
"""Libraries whose versions may change tokens."""


@dataclass(frozen=True)
class SourceInputs:
    """One source of the mix, found."""

    spec: DatasetSource
    format: DatasetFormat
    format_owner: str
    """The plugin that brought the format, for messages."""

    files: tuple[SourceFile, ...]
    sha256s: tuple[str, ...]
    """Of each file."""

    signatures: tuple[list[int], ...]
    """Each file's size, times and inode when its digest was taken."""


@dataclass(frozen=True)
class Inputs:
    """What a cache is made from."""

    request: DatasetRequest
    sources: tuple[SourceInputs, ...]
    tokenizer: TokenizerFiles
    template: ChatTemplate
    key: dict[str, Any]
    """Everything the digest covers."""

    digest: str


def find_inputs(request: DatasetRequest, host: PluginHost, memory: DigestMemory) -> Inputs:
    """Find and name everything `request` asks for. Reads files; writes nothing, and with `plan_only` opens no socket.

    Raises what is wrong with the sources, formats, template or tokenizer, by the field that names it.
    """
    formats, root = host.dataset_formats, Path(request.project_root)
    mix = request.dataset.mix
    chosen = [formats.get(one.format, f"dataset.mix[{index}].format") for index, one in enumerate(mix)]
    tokenizer = read_tokenizer_files(_tokenizer_directory(request), memory.sha256_of)
    template = choose_template(request.chat_template, host.chat_templates, tokenizer)
    found = [find_files(one, index, root) for index, one in enumerate(mix)]
    sources = tuple(
        SourceInputs(
            spec=one,
            format=dataset_format,
            format_owner=formats.owner_of(dataset_format.name),
            files=files,
            signatures=tuple(signature_of(file.path) for file in files),
            sha256s=tuple(memory.sha256_of(file.path) for file in files),
        )
        for one, dataset_format, files in zip(mix, chosen, found, strict=True)
    )
    key = _key(request, sources, tokenizer, template)
    return Inputs(request, sources, tokenizer, template, key, digest_of(key))


def _tokenizer_directory(request: DatasetRequest) -> Path:
    directory = Path(request.tokenizer)
    if directory.is_absolute():
        return directory
    return fetch_tokenizer(request.tokenizer, request.tokenizer_revision, local_only=request.plan_only)


def _key(
    request: DatasetRequest, sources: tuple[SourceInputs, ...], tokenizer: TokenizerFiles, template: ChatTemplate
) -> dict[str, Any]:
    """What decides the tokens, and nothing that does not: no path, no time, no machine."""
    return {
        "cache_format_version": CACHE_FORMAT_VERSION,
        "sources": [_source_key(source) for source in sources],
        "seed": request.seed,
        "shuffle": request.dataset.shuffle,
        "tokenizer": {
            "sha256": tokenizer.sha256,
            "named_tokens": tokenizer.named_tokens,
            "other_tokens": list(tokenizer.other_tokens),
        },
        "chat_template": {"name": template.name, "source": template.source},
        "max_length_tokens": request.dataset.max_length_tokens,
        "truncation": TRUNCATION_RULE,
        "packing": PACKING_ALGORITHM,
        "libraries": {name: metadata.version(name) for name in DECIDING_LIBRARIES},
    }


def _source_key(source: SourceInputs) -> dict[str, Any]:
    files = [{"sha256": sha256, "kind": file.kind} for file, sha256 in zip(source.files, source.sha256s, strict=True)]
    return {
        "files": files,
        "format": {"name": source.format.name, "version": source.format.version},
        "fraction": source.spec.fraction,
        "rows": source.spec.rows,
        "train_on": source.spec.train_on,
    }
