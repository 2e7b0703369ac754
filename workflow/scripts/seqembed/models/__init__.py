"""Find, prepare and load language models, which embed batches of sequences."""
