"""The saved progress of a shard, and what failed in it."""
