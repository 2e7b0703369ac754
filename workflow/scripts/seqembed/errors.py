"""The types of errors, and helpers for their messages, which say where and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# The exit codes of an entry: for an error, and for SIGTERM as shells count it.
EXIT_FAILED = 1
EXIT_INTERRUPTED = 128 + 15


class SeqembedError(Exception):
    """Base of every error that a user can mend."""


class FastaError(SeqembedError):
    """A FASTA file has a fault, in a line (from 1) and in the record of an id, if known."""

    def __init__(
        self, message: str, *, path: str | Path, record: str | None = None, line: int | None = None
    ) -> None:
        self.path, self.record, self.line = Path(path), record, line
        place = str(path) if line is None else f"{path}, line {line}"
        where = place if record is None else f"{place}, record {record!r}"
        super().__init__(f"{where}: {message}")


class ResidueError(SeqembedError):
    """Sequences hold residues that the model does not know."""


class ModelError(SeqembedError):
    """A model's files are missing, damaged or of an unknown kind."""


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Put the path before the message of a ModelError that the body raises."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def show(names: Sequence[str]) -> str:
    """Return the first three names, quoted, for a message."""
    first = ", ".join(map(repr, names[:3]))
    return f"{first}, ..." if len(names) > 3 else first


def count_of(count: int, noun: str) -> str:
    """Return a number of things for a message: "1 weight", "3 weights"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def shorten(text: str) -> str:
    """Return a text cut to 60 characters, for a message."""
    return text if len(text) <= 60 else text[:57] + "..."


class FileFormatError(SeqembedError):
    """A file of this program is damaged, incomplete, or of an unknown version."""


class IndexFormatError(FileFormatError):
    """An index or a shard's index is damaged."""


class CheckpointError(FileFormatError):
    """A checkpoint block or manifest is damaged."""


class ShardError(FileFormatError):
    """An HDF5 file of embeddings is damaged."""


class ConfigError(SeqembedError):
    """The configuration asks for something impossible."""


class DeviceError(SeqembedError):
    """No available device can do what was asked."""


class RecipeError(SeqembedError):
    """The recipe on disk is damaged, or differs from what this worker would compute."""


class NonFiniteError(SeqembedError):
    """Too many sequences in a row gave a NaN or an infinity; position: the last one's row."""

    def __init__(self, position: int, count: int) -> None:
        self.position = position
        super().__init__(
            f"the model gave values that are not finite for {count} sequences in a row, in fp32 "
            "too: check its weights, and set `embedding: {storage: float32}` where that is float16"
        )


class FreshProcessError(SeqembedError):
    """A fresh process has to try the sequences of a shard that have no row yet."""


class WorkerCrashError(SeqembedError):
    """The last process of a shard crashed while it computed no sequence."""


class NotTheSequencesError(SeqembedError):
    """Too many sequences in a row failed, each alone: something else is at fault."""

    def __init__(self, count: int, reason: str, memory: bool) -> None:
        advice = (
            "free memory, run fewer shards at a time, or set `embedding: {long_sequences: window}` "
            "or a smaller max_length"
            if memory
            else "the model or the machine is at fault, not the sequences; see the log"
        )
        super().__init__(f"{count} sequences in a row failed, each alone ({reason}): {advice}")


class InterruptedRun(SeqembedError):
    """A signal asked the run to stop; finished rows are kept."""


class WorkerError(SeqembedError):
    """A worker did not complete its shard."""
