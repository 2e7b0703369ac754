"""What the user asks for: the configuration, the recipe, lengths and memory."""
