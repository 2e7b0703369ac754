"""Parts of a worker: decisions before the first batch, checkpoints, progress, end."""
