"""Runs jobs in containers of this machine's Docker, found and ended by their labels."""
