"""The parts of a worker: its decisions before the first batch, its checkpoints, its status."""
