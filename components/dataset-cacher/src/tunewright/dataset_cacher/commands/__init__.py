"""The commands of `dataset-cacher`, one file each."""
