"""The names of the plain and the fused steps in a recipe; no PyTorch is needed."""

from __future__ import annotations

# The number of the fused steps is raised when they, or what attention or the products' block of
# rows are on a GPU, give other numbers.
PLAIN, FUSED = "plain", "1"
