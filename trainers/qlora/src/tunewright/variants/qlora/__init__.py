"""Variant `qlora`: trains low-rank adapters on weights frozen in four bits."""
