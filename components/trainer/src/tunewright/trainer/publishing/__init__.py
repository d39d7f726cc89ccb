"""Where the final model goes beside the run."""
