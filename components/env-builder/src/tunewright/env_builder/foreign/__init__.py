"""Environments of other projects: their locks read, built as environments of ours, what stays behind named."""
