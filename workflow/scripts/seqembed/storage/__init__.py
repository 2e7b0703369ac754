"""Files that are whole under their final name, JSON with a checksum, locks, paths."""
