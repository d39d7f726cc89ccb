"""The start program as text. Read when it is imported: planning opens no file."""

from __future__ import annotations

from importlib import resources

START_PROGRAM = resources.files(__package__).joinpath("start_program.py").read_text(encoding="utf-8")
"""`start_program.py`, as it goes into the pods' command."""
