"""Language-model embeddings of every sequence, importable and testable without Snakemake."""
