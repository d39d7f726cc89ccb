"""What a training makes small: from a batch to a loss."""
