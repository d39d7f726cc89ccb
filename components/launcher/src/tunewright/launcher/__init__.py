"""From an experiment file to a running job on any cluster, watched to its end and recorded."""
