"""Find the FASTA files that a user names by path or pattern."""

from __future__ import annotations

import errno
import glob
import os
import re
import stat
from pathlib import Path

from seqembed.errors import FastaError
from seqembed.storage.paths import expand, explain_no_path

_ODD_IN_NAMES = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def find_fasta_files(patterns: str | list[str]) -> list[Path]:
    """Return the files that paths or patterns name, each file once.

    The files are in the order of the patterns, and sorted within a pattern. `~`, environment
    variables, `*`, `?`, `[...]` and `**` are expanded. A folder that a wildcard matches is left
    out. Raises FastaError for a pattern that matches no file, for a file that cannot be read, and
    for a folder, a pipe, a device or a socket that is named without a wildcard.
    """
    found: dict[str, Path] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if reason := explain_no_path(pattern):
            raise FastaError(reason, path=_shown(pattern))
        for path in _matches(expand(pattern)):
            _refuse_irregular(path)
            found.setdefault(os.path.realpath(path), Path(path))
    if not found:
        raise FastaError("names no FASTA file; give at least one path", path="the list `fasta`")
    return list(found.values())


def _matches(pattern: str) -> list[str]:
    # The name of a file may hold brackets, so a path that exists is not read as a pattern.
    if os.path.lexists(pattern) or not (glob.has_magic(pattern) or "\0" in pattern):
        return [pattern]
    paths = glob.glob(pattern, recursive=True)
    files = sorted(path for path in paths if not os.path.isdir(path))
    if not files:
        what = "matches only folders; name the files in them" if paths else "matches no file"
        message = f"{what}; correct the path or the pattern"
        raise FastaError(message, path=_shown(pattern))
    return files


def _refuse_irregular(path: str) -> None:
    """Raise FastaError unless the path is a regular file, which `verify` can read once more."""
    if _ODD_IN_NAMES.search(path):
        message = "the name holds control characters, or is not UTF-8; rename the file or folder"
        raise FastaError(message, path=_shown(path))
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        message = f"cannot be read ({error.strerror}); check the path and its permissions"
        if error.errno == errno.ELOOP:
            message = "is a symbolic link that leads back to itself; link it to a file"
        elif error.errno == errno.ENOENT and os.path.islink(path):
            to = os.readlink(path)
            message = f"is a symbolic link to {to}, which is not there; correct the link"
        elif error.errno == errno.ENOENT:
            message = "matches no file; correct the path or the pattern"
        raise FastaError(message, path=path) from error
    if stat.S_ISDIR(mode):
        message = f"is a folder; name its files, such as {os.path.join(path, '*.fasta')}"
        raise FastaError(message, path=path)
    if not stat.S_ISREG(mode):
        kind = "pipe" if stat.S_ISFIFO(mode) else "device or a socket"
        message = f"is a {kind}, which can be read only once; write the sequences to a file"
        raise FastaError(message, path=path)


def _shown(path: str) -> str:
    return _ODD_IN_NAMES.sub(lambda found: ascii(found[0])[1:-1], path)
