"""Results with awkward rows, ids and descriptions, and their reports."""

from __future__ import annotations

import base64
import gzip
import html
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from indexing import index_proteins, make_check, split_proteins
from known_files import KNOWN_RECIPE, write_known_file

from seqembed.index.parquet import read_metadata
from seqembed.index.reader import read_excluded, read_lengths_and_digests
from seqembed.report.current import FIGURE_FILES, FIGURES, PAGE
from seqembed.report.findings import Sources
from seqembed.report.report import make_report
from seqembed.results.quarantine import write_quarantine
from seqembed.results.seal import seal
from seqembed.storage.digests import digest

LOGGER = logging.getLogger("seqembed.tests")
ATTRIBUTES: dict[str, Any] = {
    **KNOWN_RECIPE.fields(),
    "kind": "embeddings",
    "recipe_fingerprint": "r" * 16,
    "model": "toy",
    "weights_sha256": "c" * 64,
}
ASKED = {"layer": "last", "pooling": "mean", "per_residue": False, "max_length": "auto"}
_TAG = re.compile(r"<[^>]+>")


def write_sources(
    folder: Path,
    records: Mapping[str, str],
    rows: Any = None,
    *,
    flags: Sequence[int] | None = None,
    failed: Mapping[str, str] | None = None,
    annotations: Path | None = None,
    **attributes: Any,
) -> Sources:
    """Write what a report is made of.

    records: sequences by header, those with a J left out of the index. rows, flags: of those that
    have a row, in order. failed: why sequences have none. attributes: those that differ from usual.
    """
    results = folder / "results/demo"
    results.mkdir(parents=True, exist_ok=True)
    fasta, index = folder / "input.faa", results / "index.parquet"
    fasta.write_text("".join(f">{header}\n{text}\n" for header, text in records.items()))
    index_proteins([fasta], index, check=make_check("skip"))
    if not read_excluded(index).all():
        split_proteins(index, [results / "index/shard_0.parquet"])
    lengths, digests = read_lengths_and_digests(index)
    here = ~read_excluded(index)
    reasons = {digest(text.encode()): reason for text, reason in (failed or {}).items()}
    known = {"index_fingerprint": read_metadata(index, "index")["fingerprint"]}
    names = [header.split()[0] for header in records]
    result = write_known_file(
        results / "embeddings.h5",
        lengths[here],
        digests[here],
        names=[name for name, kept in zip(names, here, strict=True) if kept],
        quarantine=reasons,
        **ATTRIBUTES | known | attributes,
    )
    if rows is not None:
        replace_rows(result, np.asarray(rows, np.float32), flags)
    write_quarantine(index, results / "quarantine.tsv", reasons)
    return Sources(
        result=result,
        index=index,
        quarantine=results / "quarantine.tsv",
        models=folder / "resources/models",
        annotations=annotations and str(annotations),
    )


def replace_rows(result: Path, rows: np.ndarray, flags: Sequence[int] | None) -> None:
    """Give a result these (n, D) rows, and these flags, by default none."""
    with h5py.File(result, "r+") as file:
        del file["embeddings"]
        file.create_dataset("embeddings", data=rows)
        file["flags"][:] = flags or 0
    seal(result)


@dataclass(frozen=True)
class Reported:
    """A report: its page, and the folder of it and its figures."""

    page: str
    folder: Path

    @property
    def text(self) -> str:
        """What the page says, without its scripts and styles, on one line."""
        body = self.page.partition("<body>")[2].partition('<script type="application/json"')[0]
        return " ".join(html.unescape(_TAG.sub(" ", body)).split())

    @property
    def figures(self) -> dict[str, Any]:
        """What the page's script draws."""
        content: dict[str, Any] = json.loads(self._script("figures"))
        return content

    @property
    def points(self) -> dict[str, Any]:
        """What the page knows of the points of its map; {} if it has none."""
        packed = self._script("points")
        content: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(packed)) or "{}")
        return content

    def _script(self, name: str) -> str:
        found = re.search(rf'<script type="[^"]+" id="{name}">(.*?)</script>', self.page, re.S)
        assert found
        return found[1]


def write_report(
    sources: Sources, asked: Mapping[str, Any] | None = None, figures: bool = True
) -> Reported:
    """Make a report as the rule does; figures: write them to files, too."""
    folder = sources.result.parent
    paths = [folder / FIGURES / name for name in FIGURE_FILES] if figures else []
    make_report(sources, folder / PAGE, paths, asked or ASKED, LOGGER)
    assert all(path.stat().st_size for path in paths)
    return Reported((folder / PAGE).read_text("utf-8"), folder)
