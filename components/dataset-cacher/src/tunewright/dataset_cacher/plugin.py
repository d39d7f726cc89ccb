"""What the dataset-cacher brings: its formats and templates, and the dataset itself. Nothing heavy is imported here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.contracts.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunewright.contracts.dataset_plugins import ChatTemplateRegistry, DatasetFormatRegistry
    from tunewright.contracts.datasets import CachedDataset, DatasetRequest


@hookimpl
def tunewright_register_dataset_formats(register: DatasetFormatRegistry) -> None:
    """The built-in row formats."""
    from tunewright.dataset_cacher.chat.formats import BUILT_IN_FORMATS

    for dataset_format in BUILT_IN_FORMATS:
        register.add(dataset_format)


@hookimpl
def tunewright_register_chat_templates(register: ChatTemplateRegistry) -> None:
    """The built-in chat templates."""
    from tunewright.dataset_cacher.chat.templates import BUILT_IN_TEMPLATES

    for template in BUILT_IN_TEMPLATES:
        register.add(template)


@hookimpl(trylast=True)
def tunewright_provide_dataset(dataset: DatasetRequest, cache_root: str) -> CachedDataset:
    """The cache of `dataset` below the directory `cache_root`, prepared where it is not there yet."""
    from tunewright.dataset_cacher.provide import provide_dataset

    return provide_dataset(dataset, cache_root).dataset
