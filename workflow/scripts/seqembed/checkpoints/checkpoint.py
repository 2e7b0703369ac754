"""The checkpoint of a shard: a folder in which one worker at a time saves finished rows."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqembed.checkpoints.blocks import list_blocks, read_block, write_joined_block
from seqembed.checkpoints.finished_shard import INDEX, read_shard_ids
from seqembed.checkpoints.manifest_and_failures import FILES
from seqembed.checkpoints.saved_rows import SavedRows, list_saved, read_saved
from seqembed.checkpoints.taken_files import REUSED, TAKEN
from seqembed.errors import CheckpointError, ShardError
from seqembed.index.reader import check_split
from seqembed.storage.digests import to_hex
from seqembed.storage.locks import lock_folder
from seqembed.storage.publish import link, remove_temporary, set_aside


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint in use: the folder `shard_{rank}` in the folder `base`.

    locked: this process holds the lock of `base`. If False, the file system has no locks, and
    another worker may write to the same folder.
    """

    base: Path
    rank: int
    locked: bool
    logger: logging.Logger

    @property
    def folder(self) -> Path:
        """The folder that holds the rank's blocks."""
        return self.base / f"shard_{self.rank}"

    def link_index(self, index_path: Path, fingerprint: str) -> Path:
        """Link the shard's index into the folder; return the link, which a later split leaves.

        Raises IndexFormatError if the index is damaged, or has another fingerprint: better now than
        after the last batch.
        """
        link(index_path, path := self.folder / INDEX)
        check_split(path, fingerprint)
        read_shard_ids(path)
        return path

    def publish(self, saved: Path, index_path: Path, output_dir: Path, fingerprint: str) -> Path:
        """Link the finished shard into `output_dir`, remove the blocks, and return the new path.

        Raises IndexFormatError if a later split replaced the index at `index_path`, whose shard of
        this rank is another one.
        """
        check_split(index_path, fingerprint)
        link(saved, path := output_dir / saved.name)
        self._free_blocks()
        return path

    def join_files(self) -> None:
        """Join the files that hold the folder's rows, so that these need not be copied to be read.

        Without the lock, nothing is done, because another worker may be reading these files.
        """
        if self.locked:
            join_files(self.folder, self.logger)

    def remove_leftovers(self) -> None:
        """Remove what killed workers left: temporary files, and token rows that belong to no block.

        Call this method after read_finished, which renames damaged blocks. Without the lock,
        nothing is removed, because another worker may be writing these files.
        """
        if not self.locked:
            return
        remove_temporary(self.folder)
        found = set(self.folder.glob("residues_*.raw"))
        blocks = (read_block(path, check=False) for path in list_blocks(self.folder) if found)
        named = {self.folder / block.residues.name for block in blocks if block.residues}
        for path in found - named:
            path.unlink()

    def _free_blocks(self) -> None:
        """Remove the blocks and their token rows, which the finished shard holds now.

        Without the lock, they stay, because another worker may be reading them.
        """
        if not self.locked:
            return
        for path in [*list_blocks(self.folder), *self.folder.glob("residues_*.raw")]:
            path.unlink(missing_ok=True)


@contextmanager
def open_checkpoint(
    config: Mapping[str, Any],
    output_dir: Path,
    rank: int,
    leave_if_asked: Callable[[], None],
    logger: logging.Logger,
) -> Iterator[Checkpoint]:
    """Yield the rank's checkpoint, and hold the lock of its base folder during the `with` body.

    config: `checkpoint_dir`, the base folder, and `enable_checkpointing`. If the latter is False,
    the base is a temporary folder in `output_dir`, removed after the body. leave_if_asked: called
    while another worker holds the lock; an error that this call raises ends the wait.
    """
    if config["enable_checkpointing"]:
        base = config["checkpoint_dir"]
        others = base.parent.glob(f"*/shard_{rank}")
        if names := sorted(path.parent.name for path in others if path.parent != base):
            words = "other checkpoints of this rank: %s; clean.py lists those that no shard needs"
            logger.info(words, ", ".join(names))
        with lock_folder(base, leave_if_asked, logger) as locked:
            yield Checkpoint(base=base, rank=rank, locked=locked, logger=logger)
        return
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir, prefix=".embedding-") as folder:
        yield Checkpoint(base=Path(folder), rank=rank, locked=True, logger=logger)


def read_finished(
    folder: Path, logger: logging.Logger
) -> tuple[Set[str], NDArray[np.floating] | None]:
    """Return the hex digests of all rows in a checkpoint folder, in an ordered set, and the rows.

    The rows are an (n, D) array on disk, float32 or float16, or None if there are none; row i
    belongs to the i-th digest. The rows of several files are copied to a temporary file. A damaged
    file is renamed with a warning, its rows are left out.
    """
    found: dict[str, None] = {}
    paths = []
    for path, names in _check_files(folder, logger):
        found |= dict.fromkeys(names)
        paths.append(path)
    if not found:
        return found.keys(), None
    first = read_saved(paths[0], check=False)
    if len(paths) == 1 and len(first.digests) == len(found):
        return found.keys(), first.rows
    shape = len(found), first.rows.shape[1]
    return found.keys(), _copy_to_temporary(folder, paths, shape, first.rows.dtype)


def join_files(folder: Path, logger: logging.Logger) -> None:
    """Write the rows of a checkpoint folder's files as one block, and remove these files.

    Nothing is done for a single file, and for files with token rows: beside these, a copy of the
    other rows takes little room. A damaged file is renamed with a warning.
    """
    if len(list_saved(folder)) < 2 or _have_token_rows(folder):
        return
    found: set[str] = set()
    paths = []
    for path, names in _check_files(folder, logger):
        if path.suffix != ".h5" and found.issuperset(names):
            # A worker was killed after it had finished the shard, before it removed the blocks.
            path.unlink()
        else:
            found.update(names)
            paths.append(path)
    if len(paths) > 1:
        _join(folder, paths)


def _have_token_rows(folder: Path) -> bool:
    for path in list_blocks(folder):
        with suppress(CheckpointError):
            return read_block(path, check=False).residues is not None
    return False


def _check_files(folder: Path, logger: logging.Logger) -> Iterator[tuple[Path, list[str]]]:
    """Yield the files of a checkpoint folder that are whole, each with its rows' hex digests.

    One file is open at a time: there may be more of them than files may be open.
    """
    for path in list_saved(folder):
        try:
            yield path, to_hex(read_saved(path).digests)
        except (CheckpointError, ShardError) as error:
            words = "%s: damaged checkpoint file (%s), set aside as %s; its rows are recomputed"
            reason = error.__cause__ or error
            logger.warning(words, path, reason, set_aside(path).name)


def _unique_rows(paths: Sequence[Path]) -> Iterator[SavedRows]:
    """Yield the rows of each file without those that an earlier file holds, too."""
    found: set[str] = set()
    for saved in (read_saved(path, check=False) for path in paths):
        names = to_hex(saved.digests)
        # If two workers computed a batch, its rows are there twice, and equal: take one.
        new = np.array([name not in found for name in names], bool)
        found.update(names)
        yield saved if new.all() else saved.select(new)


def _join(folder: Path, paths: Sequence[Path]) -> None:
    """Write the rows of files without token rows as one block, and remove these files."""
    first = read_saved(paths[0], check=False).rows
    columns = [(saved.digests, saved.flags) for saved in _unique_rows(paths)]
    digests, flags = map(np.concatenate, zip(*columns, strict=True))
    parts = (part for saved in _unique_rows(paths) for part in saved.parts())
    shape = len(digests), first.shape[1]
    write_joined_block(folder, digests, flags, parts, shape, first.dtype)
    for path in paths:
        path.unlink()


def _copy_to_temporary(
    folder: Path, paths: Sequence[Path], shape: tuple[int, int], dtype: np.dtype[Any]
) -> NDArray[np.floating]:
    """Copy the rows of files to a temporary file, and return them mapped from it."""
    with tempfile.TemporaryFile(dir=folder) as file:
        for saved in _unique_rows(paths):
            for part in saved.parts():
                part.tofile(file)
        file.flush()
        # The mapping keeps the unlinked file alive.
        return np.memmap(file, dtype, "r", shape=shape)


def clear(folder: Path) -> None:
    """Remove all rows, manifest, failures and links to reused files from a checkpoint folder."""
    patterns = ("residues_*.raw", ".residues_*.tmp", f"{TAKEN}/*", REUSED, *FILES)
    for path in [*list_saved(folder), *(p for text in patterns for p in folder.glob(text))]:
        path.unlink(missing_ok=True)
