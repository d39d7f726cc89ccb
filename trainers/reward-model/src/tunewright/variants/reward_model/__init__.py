"""Variant `reward_model`: trains a score for conversations on preferences."""
