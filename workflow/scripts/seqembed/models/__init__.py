"""Language models that embed packed batches, and how their weights are loaded."""
