"""Write a result in the layouts of other programs."""
