"""From a job to checkpoints and a model; runs inside the environment."""
