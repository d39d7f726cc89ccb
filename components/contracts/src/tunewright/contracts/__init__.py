"""The words all parts of Tunewright share: specs, records, hooks and errors. No torch, no cluster SDK."""
