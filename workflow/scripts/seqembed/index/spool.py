"""Read the file of residues that `index` writes beside the index, for `split`.

It holds the residues of all rows, in their order, and nothing else: lengths and digests are in the
index.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np

from seqembed.errors import IndexFormatError
from seqembed.index.parquet import Digests, Int64s
from seqembed.storage.digests import digest_all


class ResidueFile:
    """An open file of the residues of n rows; close it by leaving `with`.

    lengths, (n,), and digests, (n, 16), are the index's. Raises IndexFormatError if the file cannot
    be read, or has the wrong size.
    """

    def __init__(self, path: Path, lengths: Int64s, digests: Digests) -> None:
        self.lengths, self.digests = lengths, digests
        self._path = path
        self._ends = np.cumsum(lengths)
        try:
            self._file = open(path, "rb")  # noqa: SIM115 (__exit__ closes it)
        except OSError as error:
            raise self._error(f"cannot be read ({error.strerror})") from error
        size, expected = path.stat().st_size, int(lengths.sum())
        if size != expected or (lengths < 0).any():
            self._file.close()
            raise self._error(f"has {size:,} bytes, but its index has {expected:,} residues")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def read(self, rows: Int64s) -> list[bytes]:
        """Return the residues of rows; raises IndexFormatError if a digest is wrong."""
        lengths = self.lengths[rows]
        places = zip((self._ends[rows] - lengths).tolist(), lengths.tolist(), strict=True)
        found = [self._read_at(begin, length) for begin, length in places]
        if b"".join(digest_all(found)) != self.digests[rows].tobytes():
            raise self._error("is damaged, or belongs to another index")
        return found

    def _read_at(self, begin: int, length: int) -> bytes:
        self._file.seek(begin)
        return self._file.read(length)

    def _error(self, problem: str) -> IndexFormatError:
        advice = f"remove {self._path} and run again, so that the FASTA files are indexed anew"
        return IndexFormatError(f"{self._path}: {problem}; {advice}")
