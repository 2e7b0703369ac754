"""The checkpoint of a shard: a folder in which one worker at a time saves finished rows."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqembed.checkpoints.blocks import list_blocks, read_block, write_joined_block
from seqembed.checkpoints.finished_shard import INDEX, read_shard_ids
from seqembed.checkpoints.manifest_and_failures import FILES, CheckpointManifest, write_manifest
from seqembed.checkpoints.saved_rows import SavedRows, list_saved, read_saved
from seqembed.checkpoints.taken_files import REUSED, TAKEN
from seqembed.errors import CheckpointError, ShardError
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

    def begin(self, manifest: CheckpointManifest, index_path: Path) -> None:
        """Write the manifest, and link the shard's index into the folder for assemble_shard.

        Raises IndexFormatError if the index is damaged: better now than after the last batch.
        """
        read_shard_ids(index_path)
        write_manifest(self.folder, manifest)
        link(index_path, self.folder / INDEX)

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

    def free_blocks(self) -> None:
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
            words = "checkpoints of other settings or shards stay, and clean.py can remove them: %s"
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
    belongs to the i-th digest. If several files hold them, they are joined: into one block that
    replaces these files, or, if there are token rows, into a temporary file. A damaged file is
    renamed with a warning, its rows are left out.
    """
    found: dict[str, None] = {}
    paths = list(_check_files(folder, found, logger))
    if not paths:
        return found.keys(), None
    first = read_saved(paths[0], check=False)
    if len(paths) == 1 and len(first.digests) == len(found):
        return found.keys(), first.rows
    join = _join if first.token_rows is None else _copy_to_temporary
    return found.keys(), join(folder, paths, (len(found), first.rows.shape[1]), first.rows.dtype)


def _check_files(folder: Path, found: dict[str, None], logger: logging.Logger) -> Iterator[Path]:
    """Yield the files of a checkpoint folder that are whole; add the digests of rows to `found`.

    One file is open at a time: there may be more of them than files may be open.
    """
    for path in list_saved(folder):
        try:
            names = to_hex(read_saved(path).digests)
        except (CheckpointError, ShardError) as error:
            words = "%s: damaged checkpoint file (%s), set aside as %s; its rows are recomputed"
            reason = error.__cause__ or error
            logger.warning(words, path, reason, set_aside(path).name)
            continue
        if path.suffix != ".h5" and found.keys() >= set(names):
            # A worker was killed after it had finished the shard, before it removed the blocks.
            path.unlink(missing_ok=True)
            continue
        found |= dict.fromkeys(names)
        yield path


def _unique_rows(paths: Sequence[Path]) -> Iterator[SavedRows]:
    """Yield the rows of each file without those that an earlier file holds, too."""
    found: set[str] = set()
    for saved in (read_saved(path, check=False) for path in paths):
        names = to_hex(saved.digests)
        # If two workers computed a batch, its rows are there twice, and equal: take one.
        new = np.array([name not in found for name in names], bool)
        found.update(names)
        yield saved if new.all() else saved.select(new)


def _join(
    folder: Path, paths: Sequence[Path], shape: tuple[int, int], dtype: np.dtype[Any]
) -> NDArray[np.floating]:
    """Write the rows of files without token rows as one block, and remove these files."""
    columns = [(saved.digests, saved.flags) for saved in _unique_rows(paths)]
    digests, flags = map(np.concatenate, zip(*columns, strict=True))
    parts = (part for saved in _unique_rows(paths) for part in saved.parts())
    path = write_joined_block(folder, digests, flags, parts, shape, dtype)
    rows = read_block(path, check=False).rows
    for old in paths:
        # Without locks, another worker may have joined them, too.
        old.unlink(missing_ok=True)
    return rows


def _copy_to_temporary(
    folder: Path, paths: Sequence[Path], shape: tuple[int, int], dtype: np.dtype[Any]
) -> NDArray[np.floating]:
    """Copy the rows of files to a temporary file, which takes little room beside token rows."""
    with tempfile.TemporaryFile(dir=folder) as file:
        for saved in _unique_rows(paths):
            for part in saved.parts():
                part.tofile(file)
        file.flush()
        # The mapping keeps the unlinked file alive.
        return np.memmap(file, dtype, "r", shape=shape) if shape[0] else np.empty(shape, dtype)


def clear(folder: Path) -> None:
    """Remove all rows, manifest, failures and links to reused files from a checkpoint folder."""
    patterns = ("residues_*.raw", ".residues_*.tmp", f"{TAKEN}/*", REUSED, *FILES)
    for path in [*list_saved(folder), *(p for text in patterns for p in folder.glob(text))]:
        path.unlink(missing_ok=True)
