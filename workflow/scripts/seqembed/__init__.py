"""Language-model embeddings of every sequence, importable and testable without Snakemake."""

__version__ = "0.1.0"
