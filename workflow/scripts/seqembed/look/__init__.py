"""What users look at: the state of runs."""
