"""The bits of a row's `flags`: part of the file formats, so that a bit is never given twice."""

# 1 is for windowed rows, 4 for rows computed again in fp32, 8 for reused ones.
TRUNCATED = 2
