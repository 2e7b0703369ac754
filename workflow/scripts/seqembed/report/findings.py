"""Read all that a report says: the result, its index, its quarantine, and its workers' events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqembed.errors import ExportError, ModelError
from seqembed.export.annotations import read_annotations
from seqembed.look.shard_files import count_shards
from seqembed.machine.screen import Report, no_report
from seqembed.models.prepared import PreparedModel, read_prepared
from seqembed.report.contents import Contents, count_contents
from seqembed.report.history import ShardHistory, read_histories
from seqembed.report.map import Layout, lay_out
from seqembed.report.map_figure import Colouring, list_colourings, list_details
from seqembed.report.neighbours import Neighbours, find_neighbours
from seqembed.report.sample import Sample, cut, draw_sample, measure_norms
from seqembed.results.reader import EmbeddingsFile, open_embeddings
from seqembed.results.seal import read_seal


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The files that a report is made of.

    result: embeddings.h5. index, quarantine: index.parquet and quarantine.tsv. models: the folder
    of prepared models. annotations: the path of the user's table, or None.
    """

    result: Path
    index: Path
    quarantine: Path
    models: Path
    annotations: str | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """What a report says of a result of N rows.

    seal: of the result. attributes: its attributes. width: D. model: as it was prepared; None if
    that is not known. norms: (N,) float32. norm_ends: the ids of the least and the largest, "" if
    there is no row. neighbours: None if no two rows differ. shards: how many there are, with or
    without a history.
    """

    name: str
    seal: str
    attributes: Mapping[str, str | int]
    width: int
    contents: Contents
    histories: Sequence[ShardHistory]
    shards: int
    model: PreparedModel | None
    norms: NDArray[np.float32]
    norm_ends: tuple[str, str]
    sample: Sample
    neighbours: Neighbours | None
    details: Mapping[str, Sequence[Any]]
    layouts: Mapping[str, Layout]
    colourings: Sequence[Colouring]

    @property
    def unit(self) -> str:
        """What the tokens of a sequence are called."""
        return self.model.facts.unit if self.model else "tokens"

    @property
    def limit(self) -> str:
        """The longest that the model reads at once, in words."""
        return f"{self.attributes['max_length']:,} {self.unit}"

    @property
    def letters(self) -> str:
        """What the letters of a sequence are called."""
        is_dna = self.model is not None and self.model.facts.molecule == "DNA"
        return "bases" if is_dna else "residues"


def read_findings(sources: Sources, report: Report = no_report) -> Findings:
    """Read a result and all that is known of it; report: told how far this is.

    Raises:
        ConfigError: the table of annotations is not right.
        ShardError, IndexFormatError: the result or the index is damaged.
        ExportError: the result is a shard, or the files are not of one result.
    """
    table = read_annotations(sources.annotations, ()) if sources.annotations else None
    with open_embeddings(sources.result) as file:
        if file.attributes.get("kind") != "embeddings":
            problem = "is not a whole result; name the dataset's embeddings.h5"
            raise ExportError(f"{sources.result}: {problem}")
        folder = sources.result.absolute().parent
        sample = draw_sample(file, sources.index, table)
        details, norms = list_details(sample), measure_norms(file, report)
        return Findings(
            name=folder.name,
            seal=read_seal(sources.result),
            attributes=file.attributes,
            width=file.width,
            contents=count_contents(file, sources.index, sources.quarantine),
            histories=_find_histories(folder, file),
            shards=count_shards(folder),
            model=_find_model(sources.models, file),
            norms=norms,
            norm_ends=_find_ends(file, norms),
            sample=sample,
            neighbours=find_neighbours(sample),
            details=details,
            layouts=lay_out(sample.rows),
            colourings=list_colourings(details),
        )


def _find_histories(folder: Path, file: EmbeddingsFile) -> list[ShardHistory]:
    """Return what happened to the shards; nothing if all their rows were there before."""
    found = read_histories(folder, str(file.attributes["recipe_fingerprint"]))
    return found if any(shard.tokens for shard in found) else []


def _find_ends(file: EmbeddingsFile, norms: NDArray[np.float32]) -> tuple[str, str]:
    """Return the ids of the rows with the least and the largest norm."""
    if not len(norms):
        return "", ""
    low, high = (
        cut(file.ids(row, row + 1)[0]) for row in map(int, (norms.argmin(), norms.argmax()))
    )
    return low, high


def _find_model(models: Path, file: EmbeddingsFile) -> PreparedModel | None:
    """Return the model of a result as it was prepared; None if that is gone or another one now."""
    with suppress(ModelError, OSError):
        model = read_prepared(models / f"{file.attributes['model']}.json")
        if model.fingerprint == file.attributes["weights"]:
            return model
    return None
