"""Reads FASTA files; an error names the file, the record and the line."""
