"""Find, prepare and load language models, which embed packed batches."""
