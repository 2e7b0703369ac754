"""The machine: GPUs and their locks, control groups, signals and Slurm steps."""
