"""What can go wrong, as types: each message names the place and says what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# How our programs end: for an error, and, as shells count, for SIGTERM.
EXIT_FAILED = 1
EXIT_INTERRUPTED = 128 + 15


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


class ResidueError(SeqembedError):
    """Sequences hold residues that the model does not know."""


class ModelError(SeqembedError):
    """A model's files are not what they should be."""


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Put the file's name in front of a ModelError that is raised meanwhile."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


class FileFormatError(SeqembedError):
    """A file of ours is damaged, incomplete, or of a version this program does not read."""


class IndexFormatError(FileFormatError):
    """An index or a shard's index."""


class CheckpointError(FileFormatError):
    """A checkpoint block or manifest."""


class ShardError(FileFormatError):
    """An HDF5 file of embeddings."""


class ConfigError(SeqembedError):
    """The configuration asks for what cannot be done."""


class DeviceError(SeqembedError):
    """No device is there that can do what was asked."""


class RecipeError(SeqembedError):
    """The recipe on disk cannot be followed by this worker."""


class NonFiniteError(SeqembedError):
    """A batch gave a NaN or an infinity; `positions` are its rows in the shard."""

    def __init__(self, positions: Sequence[int]) -> None:
        self.positions = list(positions)
        super().__init__(
            f"the model gave values that are not finite for rows {self.positions[0]} to "
            f"{self.positions[-1]} of the shard; set `embedding: {{precision: fp32}}`, and "
            "`storage: float32` where that is float16"
        )


class InterruptedRun(SeqembedError):
    """A signal asked the run to stop; what is finished is kept."""


class WorkerError(SeqembedError):
    """A worker did not complete its shard; `status` is what it said last, if anything."""

    def __init__(self, message: str, status: Mapping[str, Any] | None) -> None:
        self.status = status
        super().__init__(message)
