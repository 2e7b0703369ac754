"""Encoders, attention and tokenizers of the models."""
