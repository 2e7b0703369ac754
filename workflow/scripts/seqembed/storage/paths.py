"""Paths as a user writes them: `~` and variables filled in, and what is no path said so."""

from __future__ import annotations

import glob
import os
import re

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})", re.ASCII)
_BEGIN = re.compile(r"^(~[^/]*|\$\w+|\$\{\w+\})(?=/)", re.ASCII)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_STANDARD_INPUT = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")


def expand(text: str) -> str:
    """The path with `~`, `$NAME` and `${NAME}` filled in; a file of the literal name wins.

    A variable that is not set stays as it is written.
    """
    if os.path.lexists(text):
        return text
    return os.path.expanduser(os.path.expandvars(text))


def as_moved(text: str) -> str:
    """A pattern of the path under any home folder, or any value of the variable it begins with."""
    return _BEGIN.sub("*", text)


def as_name(text: str) -> str:
    """The text as the name of a dataset or a model may be; empty if no letter of it is allowed."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text).lstrip("._-")


def explain_no_path(text: str) -> str | None:
    """Say what to write in place of a text that is no path of a file here; None if it may be."""
    if text in _STANDARD_INPUT:
        return "is standard input, and sequences are read twice; write them to a file and name that"
    if os.path.lexists(text):
        return None
    if _ADDRESS.match(text):
        return "is an address, and nothing is downloaded from it; download the file and name that"
    if unset := _first_unset(text):
        return f"the variable {unset} is not set; set and export it, or write the path out"
    return _explain_several(text)


def _first_unset(text: str) -> str | None:
    unset = (found[0] for found in _VARIABLE.finditer(text) if _is_unset(found))
    return next(unset, None)


def _is_unset(found: re.Match[str]) -> bool:
    return (found[1] or found[2]) not in os.environ


def _explain_several(text: str) -> str | None:
    """Say how several paths are written, where each part of the text looks like one."""
    for separator in (",", None):
        parts = [part.strip() for part in text.split(separator) if part.strip()]
        comma = separator is not None and len(parts) > 1
        if comma or (len(parts) > 1 and all(_is_there(part) for part in parts)):
            return (
                "is no file; if these are several, write them as a list, "
                f"`fasta: [{', '.join(parts)}]`, or after --config as fasta={','.join(parts)}"
            )
    return None


def _is_there(part: str) -> bool:
    return os.path.lexists(expand(part)) or bool(glob.glob(expand(part)))
