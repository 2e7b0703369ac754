"""What split found of rows that need not be computed: a list beside the shards' indexes.

`reuse.json` in the folder of the indexes lists the sources: results, and checkpoints of earlier
splits. Each shard's index has a column for each recipe, `source_` and 12 characters of the recipe's
fingerprint: the number of the source, in the list, that has the row; -1 if none has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqembed.errors import ConfigError, IndexFormatError
from seqembed.index.parquet import SOURCE
from seqembed.settings.recipe import Recipe, pick_recipe
from seqembed.storage.json_files import read_json, write_json

FORMAT_VERSION = "1"
SOURCES = "reuse.json"

SourceNumbers = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A result, or a shard's folder in checkpoints/.

    seal: of the result, as read_seal returns it; "" for a folder. recipe: the fingerprint of its
    recipe. made: what computed it, for the log. device_name: the GPUs that did; "" for a CPU.
    """

    path: str
    seal: str
    recipe: str
    made: str = ""
    device_name: str = ""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The sources of a dataset's rows.

    count, distinct: how many sequences the dataset has, and how many of them are distinct; 0 if
    read from a file.
    passed_over: the seals of results that were looked at, and hold no row for this dataset.
    columns: by the fingerprint of each recipe, the number of each sequence's source, (m,) int32;
    -1 for a sequence that has none. Not read from the file.
    left: by the fingerprint of each recipe, how many sequences of each shard have no source.
    recipes: by fingerprint.
    """

    sources: Sequence[Source] = ()
    passed_over: Sequence[str] = ()
    count: int = 0
    distinct: int = 0
    columns: Mapping[str, SourceNumbers] = field(default_factory=dict)
    left: Mapping[str, Sequence[int]] = field(default_factory=dict)
    recipes: Mapping[str, Recipe] = field(default_factory=dict)

    def folders(self, count: int) -> SourceNumbers:
        """Return the checkpoint folder that holds each of m sequences, by number; -1: none does."""
        found = np.full(count, -1, np.int32)
        for column in self.columns.values():
            found = np.where(found < 0, column, found)
        results = [number for number, source in enumerate(self.sources) if source.seal]
        return np.where(np.isin(found, results), np.int32(-1), found)

    def count_held(self) -> dict[str, dict[str, int]]:
        """Return by recipe, and by the path of each of its sources, how many sequences it holds."""
        return {
            recipe: {
                self.sources[number].path: int(count)
                for number, count in zip(
                    *np.unique(column[column >= 0], return_counts=True), strict=True
                )
            }
            for recipe, column in self.columns.items()
        }

    def done(self, count: int) -> NDArray[np.bool_]:
        """Return which of m sequences have a source under any recipe, (m,)."""
        found = np.zeros(count, bool)
        for column in self.columns.values():
            found |= column >= 0
        return found


def column_name(recipe_fingerprint: str) -> str:
    """Return the name of a recipe's column in a shard's index."""
    return f"{SOURCE}{recipe_fingerprint[:12]}"


def write_sources(folder: Path, sources: Sources) -> None:
    """Write the list of sources, and what they leave to be computed, beside the shards' indexes."""
    content = {
        "sources": [*map(asdict, sources.sources)],
        "passed_over": [*sources.passed_over],
        "left": dict(sources.left),
        "recipes": {name: recipe.fields() for name, recipe in sources.recipes.items()},
    }
    write_json(folder / SOURCES, "reuse", FORMAT_VERSION, content)


def read_sources(folder: Path) -> Sources:
    """Return what write_sources wrote, none if the file is missing; IndexFormatError if damaged."""
    path = folder / SOURCES
    if not path.exists():
        return Sources()
    try:
        content = read_json(path, "reuse", FORMAT_VERSION)
        sources = [Source(**source) for source in content["sources"]]
        passed_over, left = content["passed_over"], content["left"]
        recipes = {name: pick_recipe(fields) for name, fields in content["recipes"].items()}
        return Sources(sources=sources, passed_over=passed_over, left=left, recipes=recipes)
    except (ConfigError, OSError, ValueError, KeyError, TypeError) as error:
        advice = f"remove {folder} and run again"
        raise IndexFormatError(f"{path}: damaged ({error!r}); {advice}") from error
