"""The bits of a row's `flags`: part of the file formats, so that a bit is never given twice."""

# 4 is for rows computed again in fp32, 8 for reused ones.
WINDOWED = 1
TRUNCATED = 2
