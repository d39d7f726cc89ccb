"""Trains low-rank adapters on frozen weights."""
