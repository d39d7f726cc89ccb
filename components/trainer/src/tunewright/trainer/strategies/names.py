"""The strategies this trainer has, by name: known without importing torch."""

STRATEGIES = frozenset({"ddp"})
"""What `training.strategy` can be here."""
