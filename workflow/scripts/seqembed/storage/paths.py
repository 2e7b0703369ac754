"""Read paths as users write them: with `~` and variables, or something that is not a path."""

from __future__ import annotations

import glob
import os
import re

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})", re.ASCII)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_STANDARD_INPUT = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")


def expand(text: str) -> str:
    """Fill in `~` and variables that are set, unless a file has this very name."""
    if os.path.lexists(text):
        return text
    return os.path.expanduser(os.path.expandvars(text))


def as_name(text: str) -> str:
    """Return a dataset's or a model's name made from a text; empty if no character is allowed."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text).lstrip("._-")[:200]


def explain_no_path(text: str) -> str | None:
    """Return what is wrong with a text that is not a path, and what to write; None for a path."""
    if text in _STANDARD_INPUT:
        return "is standard input, which is read only once; write the sequences to a file"
    if os.path.lexists(text):
        return None
    if _ADDRESS.match(text):
        return "is an address, and nothing is downloaded from it; download the file and name that"
    for found in _VARIABLE.finditer(text):
        if (found[1] or found[2]) not in os.environ:
            return f"the variable {found[0]} is not set; set and export it, or write the path out"
    if paths := _split_paths(text):
        return (
            "is not a file; if these are several, write them as a list, "
            f"`fasta: [{', '.join(paths)}]`, or after --config as fasta={','.join(paths)}"
        )
    return None


def _split_paths(text: str) -> list[str]:
    """Return the paths in a text with commas, or with blanks between files; [] for one path."""
    commas = [part.strip() for part in text.split(",") if part.strip()]
    if len(commas) > 1:
        return commas
    blanks = text.split()
    there = all(os.path.lexists(path) or glob.glob(path) for path in map(expand, blanks))
    return blanks if len(blanks) > 1 and there else []
