"""What `[training.options]` may hold for variant `lora`."""

from __future__ import annotations

from tunewright.contracts.adapters import AdapterOptions


class LoraOptions(AdapterOptions):
    """The adapters."""
