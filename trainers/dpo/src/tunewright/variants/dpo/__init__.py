"""Variant `dpo`: trains on preferences, without a reward model."""
