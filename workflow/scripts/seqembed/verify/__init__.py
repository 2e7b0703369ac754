"""Whether a finished file is right."""
