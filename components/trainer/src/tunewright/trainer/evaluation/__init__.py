"""The loss on rows that are not trained on: which rows, when, and what follows from it."""
