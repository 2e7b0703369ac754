"""A report of a finished dataset: one HTML page, and its figures as files."""
