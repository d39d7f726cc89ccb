"""Variant `lora`: trains low-rank adapters on frozen weights."""
