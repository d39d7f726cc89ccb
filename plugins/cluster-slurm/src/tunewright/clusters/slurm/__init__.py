"""Cluster `slurm`: one sbatch script a job, which srun brings to its nodes."""
