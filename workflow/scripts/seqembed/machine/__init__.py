"""The machine: GPUs and their locks, the processor, control groups, signals and Slurm steps."""
