"""Whether a run would replace the results of other files that have the same name."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from seqembed.errors import ConfigError, IndexFormatError
from seqembed.storage.paths import as_moved, expand


def refuse_to_replace(patterns: Iterable[str], files: Iterable[str | Path], index: Path) -> None:
    """Raise ConfigError where an index was made of other files than these, which match `patterns`.

    Whoever runs the same command again goes on, with other data or in a folder that was moved: one
    file in common is enough, or one that the patterns would match. An index that cannot be read is
    made anew anyway.
    """
    before = _read_files(index)
    if not before or _resolved(before) & _resolved(files) or _any_matches(before, patterns):
        return
    more = f" and {len(before) - 1} more" if len(before) > 1 else ""
    raise ConfigError(
        f"{index.parent} holds the results of {before[0]}{more}, which would be lost. Give these "
        f"files another name, by name=... after --config; or, if that file only moved, remove "
        f"{index} and run again."
    )


def _resolved(paths: Iterable[str | Path]) -> set[str]:
    return {os.path.realpath(path) for path in paths}


def _any_matches(paths: Iterable[str], patterns: Iterable[str]) -> bool:
    """Whether a pattern would match one of the paths, also as another home folder had them."""
    return any(_matches(path, pattern) for path in paths for pattern in patterns)


def _matches(path: str, pattern: str) -> bool:
    absolute = os.path.abspath(path)
    if fnmatchcase(absolute, os.path.abspath(expand(pattern))):
        return True
    moved = as_moved(pattern)
    return moved != pattern and not os.path.lexists(path) and fnmatchcase(absolute, moved)


def _read_files(index: Path) -> list[str]:
    """The files that an index names, in their order; none if it cannot be read."""
    # Not at the top: it imports pyarrow, which only a name that was used before needs.
    from seqembed.index.input_files import read_file_counts

    try:
        return [str(path) for path, _ in read_file_counts(index)]
    except IndexFormatError:
        return []
