"""The strategies this trainer has, by name: known without importing torch."""

STRATEGIES = frozenset({"ddp", "deepspeed_zero2", "deepspeed_zero3", "fsdp2"})
"""What `training.strategy` can be here."""
