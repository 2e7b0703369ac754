"""The encoders, their attention and their tokenizers."""
