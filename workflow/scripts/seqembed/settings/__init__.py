"""Settings: the configuration, the recipe, long sequences and memory."""
