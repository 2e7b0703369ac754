"""The bits of a row's `flags` in files: no bit ever changes its meaning, and 8 stays unused."""

# The sequence was cut into windows; its end was cut off; the row was computed again in fp32.
WINDOWED = 1
TRUNCATED = 2
FP32_RETRY = 4
