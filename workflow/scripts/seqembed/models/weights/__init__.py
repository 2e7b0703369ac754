"""Weights of checkpoints, read safely, checked, and put into encoders."""
