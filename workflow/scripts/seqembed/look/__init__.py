"""What people look at: the plan of a run, before it begins."""
