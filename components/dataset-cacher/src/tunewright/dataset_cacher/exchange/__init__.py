"""Caches in the formats of others, written and taken over."""
