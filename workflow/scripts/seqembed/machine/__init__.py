"""The machine: GPUs and their leases, control groups, parents and signals."""
