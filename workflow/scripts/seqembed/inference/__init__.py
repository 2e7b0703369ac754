"""Batches: planned, packed, computed, pooled; and what is done where one fails."""
