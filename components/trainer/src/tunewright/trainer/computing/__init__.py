"""The arithmetic of a forward pass: attention, logits and losses, exact and lean."""
