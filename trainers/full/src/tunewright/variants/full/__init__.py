"""Variant `full`: trains every weight."""
