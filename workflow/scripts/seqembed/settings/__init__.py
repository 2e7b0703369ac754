"""The configuration, and what follows from it: recipe, precision, windows, token budget."""
