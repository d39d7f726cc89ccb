"""From a job to checkpoints and a model. Runs inside the environment, on every node of the job."""
