"""Whether a name's results are those of other files, which a run would take the place of."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from seqembed.errors import ConfigError


def refuse_to_replace(name: str, files: Iterable[str | Path], index: Path) -> None:
    """Raise ConfigError where the index of this name was made of none of these files.

    A file that came to the others, or went, is no reason: whoever runs the same command again, with
    more data or in a checkout that was moved, goes on. An index that cannot be read is none.
    """
    if not index.exists():
        return
    before = _read_files(index)
    if not before or _resolved(before) & _resolved(files):
        return
    more = f" and {len(before) - 1} more" if len(before) > 1 else ""
    raise ConfigError(
        f"{index.parent} holds the results of {before[0]}{more}, which would be lost. Give these "
        f"files another name, by name=... after --config; or, if that file only moved, remove "
        f"{index} and run again."
    )


def _resolved(paths: Iterable[str | Path]) -> set[str]:
    return {os.path.realpath(path) for path in paths}


def _read_files(index: Path) -> list[str]:
    """The files that an index names, in their order; none if it cannot be read."""
    # Takes a third of a second, and only a name that was used before needs it.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        column = pq.read_table(index, columns=["file"], read_dictionary=["file"])["file"]
        return [str(path) for path in column.unique().to_pylist()]
    except (OSError, pa.ArrowException, KeyError):
        return []
