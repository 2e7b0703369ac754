"""Write and read the index of all sequences, and split the index into shards."""
