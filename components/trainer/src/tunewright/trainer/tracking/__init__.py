"""Metrics beside `metrics.jsonl`: trackers that users know."""
