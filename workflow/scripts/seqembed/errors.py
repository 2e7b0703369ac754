"""What can go wrong, as types: each message names the place and says what to do."""

from __future__ import annotations

from pathlib import Path


class SeqembedError(Exception):
    """Base of every error that a user can mend."""


class FastaError(SeqembedError):
    """A FASTA file cannot be read as it is.

    The file, the record's id and the line (counted from 1) stay available as attributes.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | Path,
        record: str | None = None,
        line: int | None = None,
    ) -> None:
        self.path, self.record, self.line = Path(path), record, line
        place = str(path)
        if line is not None:
            place += f", line {line}"
        if record is not None:
            place += f", record {record!r}"
        super().__init__(f"{place}: {message}")


class ModelError(SeqembedError):
    """A model's files are not what they should be."""


class FileFormatError(SeqembedError):
    """A file of ours is damaged, incomplete, or of a version this program does not read."""


class IndexFormatError(FileFormatError):
    """An index or a shard's index."""


class CheckpointError(FileFormatError):
    """A checkpoint block or manifest."""


class ShardError(FileFormatError):
    """An HDF5 file of embeddings."""
