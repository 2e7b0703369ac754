"""The index of all sequences, and its split into shards."""
