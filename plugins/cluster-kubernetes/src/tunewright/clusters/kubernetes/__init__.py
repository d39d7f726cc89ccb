"""Runs jobs on Kubernetes: plain Jobs, JobSets or TrainJobs, one pod for each node."""
