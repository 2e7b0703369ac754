"""The files from which a shard takes rows in place of computing them.

A checkpoint folder has links to these files in its folder `taken`, so that they can be read until
the merge, even if another run replaces them meanwhile. `reused.json` says how many rows are taken.
The link of a result has the checksum of its seal for a name. `refused.json`, beside the checkpoint
folders, lists the checksums of results that a merge found damaged.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from seqembed.checkpoints.blocks import BLOCK_NAME, DAMAGE
from seqembed.errors import CheckpointError, ShardError
from seqembed.results.seal import read_seal
from seqembed.storage.json_files import read_json, write_json
from seqembed.storage.publish import make_link, sync

FORMAT_VERSION = "1"
TAKEN, REUSED, REFUSED = "taken", "reused.json", "refused.json"
# Matches the names of links to results, and of no file of a checkpoint.
RESULT_NAME = re.compile(r"[0-9a-f]{32}\.h5")


@dataclass(frozen=True)
class TakenRows:
    """How many rows a shard takes from other files, and the paths of these files."""

    count: int = 0
    files: Sequence[str] = ()


def write_taken(folder: Path, taken: TakenRows) -> None:
    """Write to a checkpoint folder how many rows its shard takes from which files."""
    if taken.count:
        # After a power cut, the links have to be there if the file that names them is.
        sync(folder / TAKEN)
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


def refuse_results(checkpoints: Path, links: Iterable[Path]) -> None:
    """Note results that were damaged when they were merged, so that they are trusted no more.

    checkpoints: the dataset's folder. links: as link_result returned them, or of other files, of
    which nothing is noted.
    """
    if found := {link.stem for link in links if RESULT_NAME.fullmatch(link.name)}:
        content = {"checksums": sorted(found | read_refused(checkpoints))}
        write_json(checkpoints / REFUSED, "refused", FORMAT_VERSION, content)


def read_refused(checkpoints: Path) -> set[str]:
    """Return the checksums that refuse_results noted; none if the file is missing or damaged."""
    with suppress(*DAMAGE):
        return {*map(str, read_json(checkpoints / REFUSED, "refused", FORMAT_VERSION)["checksums"])}
    return set()


def forget_refused(checkpoints: Path) -> None:
    """Remove what refuse_results noted: the dataset's result is written."""
    (checkpoints / REFUSED).unlink(missing_ok=True)


def read_checksum(seal: str) -> str:
    """Return the checksum in the line of a seal; "" for ""."""
    return seal.rpartition(" ")[2]


def check_link(link: Path) -> None:
    """Raise ShardError if a link that link_result made leads to another result by now.

    A file of another name is not read. Raises OSError if the link leads nowhere.
    """
    named = link.parent.name == TAKEN and RESULT_NAME.fullmatch(link.name)
    if named and read_checksum(read_seal(link)) != link.stem:
        raise ShardError(f"{link}: another file has taken its place")


def link_result(folder: Path, path: Path, seal: str, *, whole: bool = False) -> Path | None:
    """Link a result into a checkpoint folder; return the link, or None if the result has changed.

    seal: the result's seal, as read_seal returned it when the result was checked. whole: it was
    checked just now, and takes the place of what an earlier call linked; otherwise that is returned
    even if the result has changed. Raises CheckpointError if the file system has no links.
    """
    link = folder / TAKEN / f"{read_checksum(seal)}.h5"
    if (whole or not _has_seal(link, seal)) and _has_seal(path, seal):
        with suppress(FileNotFoundError):
            _link(path, link)
    # The result may have been replaced in this instant.
    return link if _has_seal(link, seal) else None


def link_checkpoint(folder: Path, source: Path) -> list[Path]:
    """Link the rows of the checkpoint folder `source` into the folder `folder`; return the links.

    Another worker may be at work in `source`: files that it removes meanwhile are left out. Returns
    also what an earlier call linked, although it may be gone in `source`. Raises CheckpointError if
    the file system has no links.
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
    """Link a file at `target`, in place of a link to another file.

    The link is a symbolic one on another file system. Raises FileNotFoundError if `source` is gone,
    CheckpointError if there are links of neither kind.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    state = os.stat(source)
    with suppress(FileNotFoundError):
        # The number of a file that was removed may be another's now; its link has the old content.
        if os.path.samestat(state, os.stat(target)):
            return
    target.unlink(missing_ok=True)
    absolute = Path(os.path.abspath(source))
    if not (make_link(source, target) or make_link(absolute, target, symbolic=True)):
        raise CheckpointError(f"{target.parent}: its file system has no links")
