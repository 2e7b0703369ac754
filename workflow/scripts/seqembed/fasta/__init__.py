"""Read FASTA files; errors name the file, the record and the line."""
