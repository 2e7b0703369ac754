"""Check that a finished file is whole, and agrees with what it was made of."""
