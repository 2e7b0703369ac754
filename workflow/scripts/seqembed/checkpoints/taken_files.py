"""The files from which a shard takes rows in place of computing them.

A checkpoint folder has links to these files in its folder `taken`, so that they can be read until
the merge, even if another run replaces them meanwhile. `reused.json` says how many rows are taken.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from seqembed.checkpoints.blocks import BLOCK_NAME, DAMAGE
from seqembed.errors import CheckpointError, ShardError
from seqembed.results.seal import read_seal
from seqembed.storage.json_files import read_json, write_json
from seqembed.storage.publish import NO_HARD_LINKS

FORMAT_VERSION = "1"
TAKEN, REUSED = "taken", "reused.json"


@dataclass(frozen=True)
class TakenRows:
    """How many rows a shard takes from other files, and the paths of these files."""

    count: int = 0
    files: Sequence[str] = ()


def write_taken(folder: Path, taken: TakenRows) -> None:
    """Write to a checkpoint folder how many rows its shard takes from which files."""
    if taken.count:
        content = {"count": taken.count, "files": list(taken.files)}
        write_json(folder / REUSED, "reused", FORMAT_VERSION, content)
    else:
        (folder / REUSED).unlink(missing_ok=True)


def read_taken(folder: Path) -> TakenRows:
    """Return what write_taken wrote; raises CheckpointError if the file is damaged."""
    path = folder / REUSED
    if not path.exists():
        return TakenRows()
    try:
        content = read_json(path, "reused", FORMAT_VERSION)
        return TakenRows(int(content["count"]), [str(file) for file in content["files"]])
    except DAMAGE as error:
        raise CheckpointError(f"{path}: damaged ({error!r}); remove it and run again") from error


def link_result(folder: Path, path: Path, seal: str) -> Path | None:
    """Link a result into a checkpoint folder; return the link, or None if the result has changed.

    seal: the result's seal, as read_seal returned it when the result was checked.
    """
    link = folder / TAKEN / f"{seal.split()[-1]}.h5"
    if not _has_seal(link, seal):
        # Perhaps a symbolic link to a file that is gone.
        link.unlink(missing_ok=True)
        if not _has_seal(path, seal):
            return None
        _link(path, link)
    # The result may have been replaced in this instant.
    return link if _has_seal(link, seal) else None


def link_checkpoint(folder: Path, source: Path) -> list[Path]:
    """Link the rows of the checkpoint folder `source` into the folder `folder`; return the links.

    Another worker may be at work in `source`: files that it removes meanwhile are left out. Returns
    also what an earlier call linked, although it may be gone in `source`.
    """
    prefix = f"{source.parent.name}-{source.name}-"
    if source.is_dir():
        # Token rows come first: a block without its token rows would count as damaged.
        for path in sorted(source.iterdir(), key=lambda path: path.suffix != ".raw"):
            own = path.name if path.suffix == ".raw" else prefix + path.name
            if _holds_rows(path):
                with suppress(FileNotFoundError):
                    _link(path, folder / TAKEN / own)
    return sorted(path for path in _entries(folder / TAKEN) if path.name.startswith(prefix))


def _has_seal(path: Path, seal: str) -> bool:
    with suppress(OSError, ShardError):
        return read_seal(path) == seal
    return False


def _holds_rows(path: Path) -> bool:
    shard = path.name.startswith("shard_") and path.suffix == ".h5"
    return shard or bool(BLOCK_NAME.fullmatch(path.name)) or path.suffix == ".raw"


def _entries(folder: Path) -> Iterator[Path]:
    return folder.iterdir() if folder.is_dir() else iter(())


def _link(source: Path, target: Path) -> None:
    """Link a file at `target`, unless it is there; by a symbolic link on another file system."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            os.symlink(os.path.abspath(source), target)
