"""Complete files under their final names, JSON files with a checksum, locks, digests and paths."""
