"""Expand the paths that users write, and explain texts that are not paths."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})", re.ASCII)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_STANDARD_INPUT = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")


def expand(text: str) -> str:
    """Return a path with `~` and environment variables expanded; a variable that is not set stays.

    If there is a file of exactly this name, the text is returned unchanged.
    """
    if os.path.lexists(text):
        return text
    return os.path.expanduser(os.path.expandvars(text))


def as_name(text: str) -> str:
    """Return a name for a dataset or a model, made from a text, of at most 200 characters.

    Letters, digits and `._-` stay, other characters become `_`, and the name begins with a letter
    or a digit. If the text has neither, the name is empty.
    """
    return re.sub(r"[^A-Za-z0-9._-]", "_", text).lstrip("._-")[:200]


def explain_no_path(text: str) -> str | None:
    """Return why a text is not a path, and what to write instead; None if the text may be one."""
    if text in _STANDARD_INPUT:
        return "is standard input, which is read only once; write the sequences to a file"
    if os.path.lexists(text):
        return None
    if _ADDRESS.match(text):
        return "is an address, which is not downloaded; download the file, and give its path"
    for found in _VARIABLE.finditer(text):
        if (found[1] or found[2]) not in os.environ:
            return f"the variable {found[0]} is not set; export it, or write the whole path"
    paths = [part.strip() for part in text.split(",") if part.strip()]
    # Blanks divide a text only if all of its parts are files.
    blanks = text.split()
    if len(paths) < 2 and all(os.path.lexists(p) or glob.glob(p) for p in map(expand, blanks)):
        paths = blanks
    if len(paths) > 1:
        return (
            "is not a file; if the text names several files, write them as a list, "
            f"`fasta: [{', '.join(paths)}]`, or after --config as fasta={','.join(paths)}"
        )
    return None


def list_stores(results: Path, model_config: Mapping[str, Any]) -> list[Path]:
    """Return a dataset's own folder store/, then those of other datasets.

    results: the dataset's folder. model_config: gpu_worker's, whose `stores` may be missing.
    """
    return [results / "store", *map(Path, model_config.get("stores", ()))]
