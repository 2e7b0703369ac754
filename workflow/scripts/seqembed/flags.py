"""The bits of a row's `flags`: part of the file formats, so that a bit is never given twice."""

# 8 is for reused rows.
WINDOWED = 1
TRUNCATED = 2
FP32_RETRY = 4
