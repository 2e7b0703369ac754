"""The types of errors, and functions that write parts of their messages."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# The exit codes of an entry program: after an error, and after SIGTERM (128 + 15, as in shells).
EXIT_FAILED = 1
EXIT_INTERRUPTED = 143

# What to do about an operating system's error, by its number.
ADVICE = {
    errno.ENOSPC: "make room on its disk",
    errno.EDQUOT: "make room within your quota",
    errno.EIO: "check its disk, which reports errors",
    errno.EROFS: "make its disk writable",
    errno.EMFILE: "have the limit raised (`ulimit -Hn` shows it), or set fewer `shards`",
    errno.EACCES: "check the permissions",
}
IS_BUG = "this is a bug in seqembed; please report it with all lines of the log"


class SeqembedError(Exception):
    """Base of all errors that a user can mend; other exceptions are bugs."""


def explain(error: BaseException) -> str | None:
    """Return what users read of an error that they can mend; None if its traceback is needed."""
    if isinstance(error, SeqembedError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error}; {ADVICE.get(error.errno or 0, 'mend this')}"
    if isinstance(error, MemoryError):
        return f"memory ran out ({shorten(str(error))}); free memory, or give the program more"
    return None


class FastaError(SeqembedError):
    """A FASTA file has a fault. line: its number, from 1; record: its id; None: not known."""

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
    """Put `path` before the message of a ModelError that the `with` block raises."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def show(names: Sequence[str]) -> str:
    """Return the first three names for a message, quoted; `...` stands for further names."""
    first = ", ".join(map(repr, names[:3]))
    return f"{first}, ..." if len(names) > 3 else first


def list_all(texts: Sequence[str], word: str) -> str:
    """Return all texts, the last after `word`, such as "A, B or C"; there are at least two."""
    return f"{', '.join(texts[:-1])} {word} {texts[-1]}"


def count_of(count: int, noun: str) -> str:
    """Return a count with its noun for a message, such as "1 weight" or "3 weights"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def shorten(text: str) -> str:
    """Return a text for a message: if longer than 60 characters, its first 57 and `...`."""
    return text if len(text) <= 60 else text[:57] + "..."


class FileFormatError(SeqembedError):
    """A file that seqembed wrote is damaged, incomplete, or of an unknown format version."""


class IndexFormatError(FileFormatError):
    """A dataset's index or a shard's index is damaged."""


class OldFormatError(SeqembedError, RuntimeError):
    """A folder holds checkpoints of a program that is older than this format."""


class CheckpointError(FileFormatError):
    """A file of a checkpoint is damaged, such as a block or the manifest."""


class ShardError(FileFormatError):
    """An HDF5 file of embeddings is damaged: a shard, or embeddings.h5."""


class ResultError(SeqembedError):
    """An embeddings.h5 is not there or is closed, or has no data of the kind that was asked for."""


class UnknownIdError(ResultError, KeyError):
    """An embeddings.h5 has no row for an id."""

    # KeyError shows its message as a quoted text.
    __str__ = SeqembedError.__str__


class ExportError(FileFormatError):
    """An export gave back other content than was written, or a result lacks what it needs."""


class ConfigError(SeqembedError):
    """A setting is not valid, or cannot be used with the other settings."""


class DeviceError(SeqembedError):
    """No available device can do what the settings ask for."""


class RecipeError(SeqembedError):
    """The recipe on disk is damaged, or is not the recipe that this worker would use."""


class BlockMemoryError(DeviceError):
    """A GPU lacks the memory for `rows` rows, the fewest that it computes at once."""

    def __init__(self, rows: int) -> None:
        super().__init__(
            f"a batch of {rows:,} rows, the smallest that a GPU computes for this model, does not "
            "fit into the GPU's free memory; no sequence is at fault. End other programs on the "
            "GPU (`nvidia-smi` lists them), or take a larger GPU or a smaller model, and run again"
        )


class NonFiniteError(SeqembedError):
    """`count` successive sequences got values that are not finite, the last at row `position`."""

    def __init__(self, position: int, count: int) -> None:
        self.position = position
        super().__init__(
            f"the model gave values that are not finite for {count} sequences in a row, in fp32 "
            "too; check the model's weights, and if `storage` is float16, set "
            "`embedding: {storage: float32}`"
        )


class FreshProcessError(SeqembedError):
    """Sequences of the shard failed, and a new worker process has to try each of them alone."""


class WorkerCrashError(SeqembedError):
    """The shard's last worker process crashed while no batch was being computed."""


class NotTheSequencesError(SeqembedError):
    """`count` sequences failed one after another, each alone in a batch: they are not the cause.

    reason: why the last one failed. memory: whether the sequences failed for lack of memory.
    """

    def __init__(self, count: int, reason: str, memory: bool) -> None:
        advice = (
            "end other programs that hold memory, run fewer shards at a time, or set `embedding: "
            "{long_sequences: window}` or a smaller max_length"
            if memory
            else "the model or the machine is at fault, not the sequences; see the log"
        )
        super().__init__(f"{count} sequences in a row failed, each alone ({reason}): {advice}")


class InterruptedRun(SeqembedError):
    """A signal asked the run to stop; finished rows are kept."""


class WorkerError(SeqembedError):
    """A worker process ended without completing its shard."""
