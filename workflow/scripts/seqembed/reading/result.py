"""Open an embeddings.h5, and read rows of it by id, by slice or in chunks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from seqembed.errors import ResultError, UnknownIdError, show
from seqembed.reading.id_index import IdIndex
from seqembed.results.quarantine_table import find_reason
from seqembed.results.reader import EmbeddingsFile, open_embeddings, slab_bounds
from seqembed.results.rows import RowPool
from seqembed.results.seal import is_sealed

if TYPE_CHECKING:
    import pandas as pd

Rows = NDArray[np.floating]

GIVE_RESULT = "give the path of a result, such as results/mine/embeddings.h5"


def open_result(path: str | os.PathLike[str], *, check: bool = True) -> Result:
    """Open an embeddings.h5; use it in a `with` block, or close it when it is not needed any more.

    check: whether to read the whole file first and compare its checksum; without this, a damaged
    file may give wrong values. Raises ResultError if there is no file, if it cannot be read, is not
    a file of seqembed, or is a shard, and ShardError if it is damaged.
    """
    return Result(Path(path), check=check)


class Result:
    """An embeddings.h5 that is open: N rows of D values, a row for each id.

    All arrays that it returns are copies: they stay valid after it is closed. Rows have the dtype
    of the file, float32 or float16. After `close`, each use raises ResultError.
    """

    def __init__(self, path: Path, *, check: bool = True) -> None:
        self.path = path
        self._opened: EmbeddingsFile | None = None
        self._ids: NDArray[np.object_] | None = None
        self._index: IdIndex | None = None
        if not path.is_file():
            raise ResultError(f"{path}: is not a file; {GIVE_RESULT}")
        _refuse_other_files(path, check)
        with ExitStack() as stack:
            self._opened = stack.enter_context(open_embeddings(path, check=check))
            if (kind := self._opened.attributes.get("kind")) != "embeddings":
                problem = f"is of the kind {kind!r}, not a whole result"
                raise ResultError(f"{path}: {problem}; open embeddings.h5")
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a result that is closed already stays so."""
        self._opened = self._ids = self._index = None
        self._stack.close()

    def __repr__(self) -> str:
        if self._opened is None:
            return f"<Result {self.path}: closed>"
        size = f"{len(self):,} rows of {self.width:,} values"
        return f"<Result {self.path}: {size}, {self.attributes.get('model')}>"

    def __len__(self) -> int:
        return self._file.count

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids, in the order of the rows."""
        return iter(self.ids)

    def __contains__(self, sequence_id: object) -> bool:
        return isinstance(sequence_id, str) and bool(self._find([sequence_id])[0] >= 0)

    def __getitem__(self, key: str | slice) -> Rows:
        """Return the row of an id, (D,), or the rows of a slice, (n, D).

        Raises UnknownIdError if no row has the id.
        """
        if isinstance(key, slice):
            return self._take(np.arange(len(self))[key])
        if not isinstance(key, str):
            raise TypeError(f"write an id, which is text, or a slice as in [0:10], not {key!r}")
        row: Rows = self._take(self._rows_of([key]))[0]
        return row

    @property
    def width(self) -> int:
        """D, the number of values in a row."""
        return self._file.width

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """The type of a value, float32 or float16."""
        return self._file.rows.dtype

    @property
    def attributes(self) -> dict[str, str | int]:
        """The file's attributes: the model, and every setting that decides the numbers."""
        return dict(self._file.attributes)

    @property
    def ids(self) -> NDArray[np.object_]:
        """The ids in the order of the rows, (N,) str; read when they are first asked for."""
        file = self._file
        if self._ids is None:
            self._ids = _read_ids(file, 0, file.count)
            self._ids.flags.writeable = False
        return self._ids

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of residues of each sequence, (N,) int64."""
        return self._file.lengths()

    @property
    def flags(self) -> NDArray[np.uint8]:
        """The flags of each row, (N,) uint8: 1 windowed, 2 truncated, 4 computed again in fp32."""
        return self._file.flags()

    @property
    def digests(self) -> NDArray[np.uint8]:
        """The digest of each sequence, (N, 16) uint8: equal sequences have equal digests."""
        return self._file.digests()

    def rows(self, ids: Iterable[str]) -> Rows:
        """Return the rows of n ids, (n, D), in the order of `ids`.

        Raises UnknownIdError if an id has no row.
        """
        return self._take(self._rows_of(_as_list(ids)))

    def chunks(self, count: int | None = None) -> Iterator[tuple[NDArray[np.object_], Rows]]:
        """Yield all ids and rows, in order, in chunks: n ids, (n,) str, and their rows, (n, D).

        count: the number of rows of a chunk; None: as many as take 16 MB, at most 65,536.
        """
        if count is not None and count < 1:
            raise ValueError(f"a chunk has at least 1 row, not {count}")
        for start, stop in slab_bounds(len(self), self.width, count):
            yield _read_ids(self._file, start, stop), self[start:stop]

    def residues(self, sequence_id: str) -> Rows:
        """Return the token rows of an id, (tokens, D): for proteins one for each residue.

        Raises UnknownIdError if no row has the id, ResultError if the file has no token rows, and
        TypeError for an id that is not text.
        """
        file = self._file
        if file.residues is None:
            advice = "run again with `embedding: {per_residue: true}`"
            raise ResultError(f"{self.path}: has no rows of residues; {advice}")
        (row,) = self._rows_of(_as_list([sequence_id]))
        start, stop = file.token_bounds(int(row))
        return self._take(np.arange(start, stop), file.residues)

    def frame(
        self, ids: Iterable[str] | None = None, *, lengths: bool = False, flags: bool = False
    ) -> pd.DataFrame:
        """Return a pandas frame with a row for each of `ids`; None: for all ids of the file.

        The index, `sequence_id`, has the ids. The columns are `length` and `flags`, if they are
        asked for, then the D values as `dim_0`, `dim_1` and so on. Raises UnknownIdError if an id
        has no row.
        """
        # This import takes half a second, and only frames need it.
        import pandas as pd

        names = self.ids.tolist() if ids is None else _as_list(ids)
        rows = np.arange(len(self)) if ids is None else self._rows_of(names)
        index = pd.Index(names, name="sequence_id")
        columns = [f"dim_{number}" for number in range(self.width)]
        # Without a copy, a frame takes the memory of its rows once.
        frame = pd.DataFrame(self._take(rows), index, columns, copy=False)
        if flags:
            frame.insert(0, "flags", self.flags[rows])
        if lengths:
            frame.insert(0, "length", self.lengths[rows])
        return frame

    @property
    def _file(self) -> EmbeddingsFile:
        if self._opened is None:
            raise ResultError(f"{self.path}: this result is closed; open it again")
        return self._opened

    def _take(self, rows: NDArray[np.int64], held: Rows | None = None) -> Rows:
        """Return copies of rows, (n, D), of the file's rows or of `held`. rows: (n,) numbers.

        They are read from the file, not through its map: the memory stays that of the copies.
        """
        file = self._file
        pool = RowPool([file.rows if held is None else held], file.width, self.dtype.name)
        return pool.take(rows)

    def _find(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the row of each of n ids, or -1: (n,)."""
        file = self._file
        if self._index is None:
            self._index = IdIndex(file)
        return self._index.find(ids)

    def _rows_of(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the row of each of n ids, (n,); UnknownIdError if there is none."""
        rows = self._find(ids)
        if (missing := np.flatnonzero(rows < 0)).size:
            raise UnknownIdError(self._explain_missing([ids[place] for place in missing.tolist()]))
        return rows

    def _explain_missing(self, ids: list[str]) -> str:
        message = f"{self.path}: no row has the id {show(ids)}"
        table = self.path.with_name("quarantine.tsv")
        if reason := find_reason(table, ids[0]):
            return f"{message}; {table} says why: {reason}"
        return f"{message}; ids of this file are {show(self._file.ids(0, 4)) or 'none'}"


def _refuse_other_files(path: Path, check: bool) -> None:
    """Raise ResultError for a file that seqembed did not write: other errors advise to remove it.

    Unchecked, a file without a seal may have the format: another program wrote a result again.
    """
    try:
        own = is_sealed(path) or (not check and _has_format(path))
    except OSError as error:
        problem = f"cannot be read ({error})"
        raise ResultError(f"{path}: {problem}; check the permissions and the disk") from error
    if not own:
        raise ResultError(f"{path}: is not a file of seqembed; {GIVE_RESULT}")


def _has_format(path: Path) -> bool:
    """Whether this is an HDF5 file with the attribute that says the format of seqembed."""
    if not h5py.is_hdf5(path):
        return False
    with h5py.File(path, "r", locking=False) as file:
        return "format_version" in file.attrs and "kind" in file.attrs


def _read_ids(file: EmbeddingsFile, start: int, stop: int) -> NDArray[np.object_]:
    """Return the ids of the rows `start` to `stop - 1`, (n,) str."""
    return np.array(file.ids(start, stop), dtype=object)


def _as_list(ids: Iterable[str]) -> list[str]:
    """Return ids as a list; TypeError for one id in place of several, or an id that is not text."""
    if isinstance(ids, str):
        raise TypeError(f"write a list of ids, not {ids!r}; for one id, write result[id]")
    names = list(ids)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"an id is text, not {name!r}")
    return names
