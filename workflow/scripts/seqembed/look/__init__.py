"""What people look at: the plan of a run, and the state of runs."""
