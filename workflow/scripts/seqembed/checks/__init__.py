"""Check whether the records of FASTA files are sequences that a model can read."""
