"""Tells a webhook what becomes of runs."""
