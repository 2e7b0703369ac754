"""The parts of a worker: its decisions before the first batch, and its checkpoints."""
