"""A job that measures a saved model: the loss of a dataset's rows, and whether the model answers as they do."""
