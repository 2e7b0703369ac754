"""The bits of a row's `flags` in files: no bit ever changes its meaning, and 8 stays unused."""

WINDOWED = 1
TRUNCATED = 2
FP32_RETRY = 4
