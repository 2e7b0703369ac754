"""Check that a finished file is undamaged, and agrees with what it was made from."""
