"""Everything that decides the tokens, found and named: files, formats, template, tokenizer; and the key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from tunewright.contracts.dataset_plugins import ChatTemplate, DatasetFormat
from tunewright.contracts.datasets import DatasetRequest
from tunewright.contracts.errors import BrokenPlugin, InvalidDataset, Problem
from tunewright.contracts.experiment import DatasetSource
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.spec import digest_of
from tunewright.dataset_cacher.chat.templates import choose_template
from tunewright.dataset_cacher.reading.digests import DigestMemory
from tunewright.dataset_cacher.reading.hub import HubDataset, fetch_hub_files, find_hub_dataset
from tunewright.dataset_cacher.reading.opening import Signature
from tunewright.dataset_cacher.reading.sources import SourceFile, find_files
from tunewright.dataset_cacher.tokens.tokenizer_files import TokenizerFiles, fetch_tokenizer, read_tokenizer_files

CACHE_FORMAT_VERSION = 2
"""Raise it when the layout of a cache, or what our own code makes of the same inputs, changes."""

PACKING_ALGORITHM = {"algorithm": "best-fit-decreasing", "version": 2}
TRUNCATION_RULE = "right"

PAIR_RULES_VERSION = 1
"""Raise it when what is trained of a pair, or which are kept, changes. Only mixes of pairs have it in their key."""

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

    signatures: tuple[Signature, ...]
    """What would have changed with each file, when its digest was taken."""

    hub: HubDataset | None = None
    """What it is on the hub: the commit decides its rows, and its files come when they are needed."""


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

    @property
    def sequences_per_example(self) -> int:
        """2 for a mix of preferences, else 1: the same for all sources."""
        return self.sources[0].format.conversations_per_row


def find_inputs(request: DatasetRequest, host: PluginHost, memory: DigestMemory) -> Inputs:
    """Find and name everything `request` asks for. Reads files, writes nothing, and asks no hub with `plan_only`.

    Object stores are asked what there is, and read where what is there is not remembered.

    Raises what is wrong with the sources, formats, template or tokenizer, by the field that names it.
    """
    formats, root = host.dataset_formats, Path(request.project_root)
    mix = request.dataset.mix
    chosen = [formats.get(one.format, f"dataset.mix[{index}].format") for index, one in enumerate(mix)]
    _check_examples(request, chosen)
    tokenizer = read_tokenizer_files(_tokenizer_directory(request), memory.sha256_of)
    template = choose_template(request.chat_template, host.chat_templates, tokenizer)
    sources = tuple(
        _find_source(one, index, dataset_format, formats.owner_of(dataset_format.name), root, memory)
        for index, (one, dataset_format) in enumerate(zip(mix, chosen, strict=True))
    )
    key = _key(request, sources, tokenizer, template)
    return Inputs(request, sources, tokenizer, template, key, digest_of(key))


def with_hub_files(inputs: Inputs, memory: DigestMemory) -> Inputs:
    """`inputs`, with the files of datasets of the hub, fetched where they are not here. The key stays as it is.

    Raises what is wrong with such a source, by its field.
    """
    sources = tuple(
        one if one.hub is None else _with_files(one, fetch_hub_files(one.hub, f"dataset.mix[{index}]"), memory)
        for index, one in enumerate(inputs.sources)
    )
    return replace(inputs, sources=sources)


def _check_examples(request: DatasetRequest, formats: Sequence[DatasetFormat]) -> None:
    """A mix is of conversations or of pairs, and pairs are not packed."""
    mix, numbers = request.dataset.mix, [one.conversations_per_row for one in formats]
    for one in formats:
        if one.conversations_per_row not in (1, 2):
            words = f"dataset format `{one.name}`: `conversations_per_row` must be 1 or 2"
            raise BrokenPlugin(f"{words}, got {one.conversations_per_row}")
    if len(set(numbers)) > 1:
        single, paired = (_name_of(mix[index], index) for index in (numbers.index(1), numbers.index(2)))
        message = f"{single} gives conversations, {paired} gives preference pairs; a mix has one kind only"
        raise _invalid("dataset.mix", message, "prepare them in two experiments")
    if numbers[0] == 2:
        _check_pairs(request)


def _check_pairs(request: DatasetRequest) -> None:
    if request.dataset.packing:
        hint = "leave it out: the trainer lays the sequences of a batch end to end, with no padding, anyway"
        raise _invalid("dataset.packing", "must be false with preference pairs, got true", hint)
    for index, one in enumerate(request.dataset.mix):
        if one.train_on == "all":
            message = 'must be "assistant" or "last_assistant" with preference pairs, got "all"'
            raise _invalid(f"dataset.mix[{index}].train_on", message, "a pair is judged by its answers alone")


def _name_of(source: DatasetSource, index: int) -> str:
    return f"`{source.source}` (mix[{index}], format `{source.format}`)"


def _invalid(field: str, message: str, hint: str) -> InvalidDataset:
    problem = Problem(field, message, hint)
    return InvalidDataset(str(problem).split("\n")[0], hint, (problem,))


def _find_source(
    spec: DatasetSource, index: int, dataset_format: DatasetFormat, owner: str, root: Path, memory: DigestMemory
) -> SourceInputs:
    hub = find_hub_dataset(spec, root)
    source = SourceInputs(spec, dataset_format, owner, files=(), sha256s=(), signatures=(), hub=hub)
    return source if hub is not None else _with_files(source, find_files(spec, index, root), memory)


def _with_files(source: SourceInputs, files: tuple[SourceFile, ...], memory: DigestMemory) -> SourceInputs:
    known = memory.identify(files)
    signatures, sha256s = tuple(signature for signature, _ in known), tuple(sha256 for _, sha256 in known)
    return replace(source, files=files, signatures=signatures, sha256s=sha256s)


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
        **({} if sources[0].format.conversations_per_row == 1 else {"pairs": {"version": PAIR_RULES_VERSION}}),
    }


def _source_key(source: SourceInputs) -> dict[str, Any]:
    return {
        **_content_key(source),
        "format": _format_key(source.format),
        "fraction": source.spec.fraction,
        "rows": source.spec.rows,
        "train_on": source.spec.train_on,
        **_given_key(source.spec),
    }


def _format_key(dataset_format: DatasetFormat) -> dict[str, Any]:
    """How many conversations a row gives is there only where it is not one, as in the digests there were before."""
    key = {"name": dataset_format.name, "version": dataset_format.version}
    number = dataset_format.conversations_per_row
    return key if number == 1 else {**key, "conversations_per_row": number}


def _content_key(source: SourceInputs) -> dict[str, Any]:
    """What the rows are: the content of files, or a commit of the hub."""
    if source.hub is not None:
        return {"hub": source.hub.to_document()}
    pairs = zip(source.files, source.sha256s, strict=True)
    return {"files": [{"sha256": sha256, "kind": file.kind} for file, sha256 in pairs]}


def _given_key(spec: DatasetSource) -> dict[str, Any]:
    """What is in the key only where it is given: sources that do without have the digests they had before."""
    document = spec.to_document()
    filters = [{name: value for name, value in one.items() if value is not None} for one in document["filters"]]
    given = {"columns": document["columns"], "filters": filters, "system_prompt": document["system_prompt"]}
    return {name: value for name, value in given.items() if value}
