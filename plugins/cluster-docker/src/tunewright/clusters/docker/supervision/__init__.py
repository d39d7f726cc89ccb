"""What runs a job to its end: the standard library alone, for a copy of it outlives the launcher."""
