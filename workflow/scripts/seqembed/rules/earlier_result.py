"""Whether a run would replace the results of other files that have the same name."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from seqembed.errors import ConfigError, IndexFormatError
from seqembed.storage.paths import expand


def refuse_to_replace(patterns: Iterable[str], files: Iterable[str | Path], index: Path) -> None:
    """Raise ConfigError if an index was made of other files than these, which match `patterns`.

    One file in common, or one that a pattern would match, is enough to go on: data may come and
    go. An index that cannot be read is passed over, since it is made anew anyway.
    """
    before = _read_files(index)
    absolute = [os.path.abspath(expand(pattern)) for pattern in patterns]
    known = any(fnmatchcase(os.path.abspath(path), each) for path in before for each in absolute)
    if not before or known or _resolve(before) & _resolve(files):
        return
    more = f" and {len(before) - 1} more" if len(before) > 1 else ""
    raise ConfigError(
        f"{index.parent} holds the results of {before[0]}{more}, which would be lost. Give these "
        f"files another name, by name=... after --config; or, if that file only moved, remove "
        f"{index} and run again."
    )


def _resolve(paths: Iterable[str | Path]) -> set[str]:
    return {os.path.realpath(path) for path in paths}


def _read_files(index: Path) -> list[str]:
    """The files that an index names, in their order; none if it cannot be read."""
    # Not at the top: it imports pyarrow, which only a name that was used before needs.
    from seqembed.index.table import read_file_counts

    try:
        return [str(path) for path, _ in read_file_counts(index)]
    except IndexFormatError:
        return []
