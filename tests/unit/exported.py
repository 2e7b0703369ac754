"""A result with ids that other programs cannot hold as they are, and its exports."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from known_files import WIDTH, rows_of, token_rows_of, write_indices, write_known_file

from seqembed.export.export import export
from seqembed.index.parquet import read_metadata
from seqembed.index.reader import read_lengths_and_digests
from seqembed.storage.digests import digest, digest_rows

LOGGER = logging.getLogger("seqembed.tests")
EXPORTS = ("embeddings.parquet", "uniprot.h5", "embeddings.npy", "embeddings.h5ad")
PER_RESIDUE = "uniprot_per_residue.h5"
# "skipped" has a residue that the model does not know, "failed" could not be embedded.
SEQUENCES = {
    "plain": "MKV",
    "a/b": "WE",
    "a%2Fb": "ACDE",
    "a%252Fb": "ACDEF",
    "skipped": "MJ",
    ".": "L",
    "..": "LL",
    "%2E": "LLL",
    "/": "LLLL",
    "//": "LLLLL",
    "é蛋🧬": "MKVW",
    "failed": "WWWW",
    "NA": "MKV",
    "x" * 1024: "WE",
    "/" * 1024: "AC",
}
ODD = {name: text for name, text in SEQUENCES.items() if name not in ("skipped", "failed")}


@dataclass(frozen=True)
class Exported:
    """A result in a folder, the ids and rows that it has, and its token rows by id."""

    folder: Path
    ids: list[str]
    rows: np.ndarray
    tokens: Mapping[str, np.ndarray]

    @property
    def result(self) -> Path:
        return self.folder / "embeddings.h5"

    def export(self, name: str, dtype: str = "float32", table: Path | None = None) -> Path:
        """Make the export of this name; return its path."""
        output = self.folder / "export" / name
        index, text = self.folder / "index.parquet", None if table is None else str(table)
        export(self.result, output, dtype, LOGGER, index=index, annotations=text)
        return output


def write_result(
    folder: Path,
    sequences: Mapping[str, str] = SEQUENCES,
    storage: str = "float32",
    *,
    tokens: bool = True,
    failed: str = SEQUENCES["failed"],
    **changes: Any,
) -> Exported:
    """Write embeddings.h5 and index.parquet; changes: of the attributes, and `shift`."""
    index = write_indices(folder, sequences)
    lengths, digests = read_lengths_and_digests(index)
    names = [name for name, text in sequences.items() if "J" not in text]
    here = np.array(["J" not in text for text in sequences.values()], bool)
    attributes = {"kind": "embeddings", "model": "toy", "layer": 6}
    attributes |= {"index_fingerprint": read_metadata(index, "index")["fingerprint"]}
    write_known_file(
        folder / "embeddings.h5",
        lengths[here],
        digests[here],
        names=names,
        storage=storage,
        tokens=tokens,
        quarantine={digest(failed.encode()): "too long"},
        **attributes | changes,
    )
    ids = [name for name in names if sequences[name] != failed]
    keys = digest_rows(digest(sequences[name].encode()) for name in ids)
    rows = rows_of(keys, storage) + np.array(changes.get("shift", 0), storage)
    counts = zip(ids, keys, strict=True)
    by_id = {name: token_rows_of(key, len(sequences[name]), storage) for name, key in counts}
    assert rows.shape == (len(ids), WIDTH)
    return Exported(folder, ids, rows, by_id)
