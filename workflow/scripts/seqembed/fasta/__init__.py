"""FASTA files, read record by record; what is wrong with one is an error with its line."""
