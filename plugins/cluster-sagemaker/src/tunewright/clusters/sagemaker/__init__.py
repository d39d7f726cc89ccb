"""Runs jobs as training jobs of Amazon SageMaker."""
