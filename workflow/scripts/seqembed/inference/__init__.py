"""Plan, pack and compute batches, pool their rows, and handle failures."""
