"""Whether the records of a FASTA file are sequences that a model can read."""
