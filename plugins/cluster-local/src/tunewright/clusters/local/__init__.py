"""Runs jobs on this machine, each as a process tree of its own that outlives the launcher."""
