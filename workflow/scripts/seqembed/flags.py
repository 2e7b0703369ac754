"""The bits of a row's `flags`: part of the file formats, so that a bit never changes its meaning.

8 stays unused: where a row came from does not change it.
"""

WINDOWED = 1
TRUNCATED = 2
FP32_RETRY = 4
