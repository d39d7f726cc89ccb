"""Trains every weight."""
