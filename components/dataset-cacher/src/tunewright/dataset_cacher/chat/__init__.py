"""Rows to text: conversations, chat templates, and which characters count in the loss."""
