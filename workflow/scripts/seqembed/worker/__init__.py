"""What a worker settles before its first batch, writes, and reports."""
