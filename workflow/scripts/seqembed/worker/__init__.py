"""Parts of a worker: decisions before the first batch, checkpoints, and progress."""
