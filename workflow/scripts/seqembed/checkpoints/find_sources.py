"""Find, for split, the results and checkpoints that hold rows of a dataset already.

The recipe that a dataset will have is not known before its first worker has resolved it, so rows
under any recipe that the request can come to are looked for. The worker decides.
"""

from __future__ import annotations

import glob
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np

from seqembed.checkpoints.blocks import read_block
from seqembed.checkpoints.saved_rows import list_saved, read_saved
from seqembed.errors import (
    CheckpointError,
    ConfigError,
    FileFormatError,
    ShardError,
)
from seqembed.index.parquet import Digests, Int64s
from seqembed.index.sources import Source, SourceNumbers, Sources
from seqembed.models.prepared import PreparedModel
from seqembed.results.reader import EmbeddingsFile, open_embeddings, store_path
from seqembed.results.seal import read_seal
from seqembed.settings.recipe import (
    Recipe,
    find_difference,
    find_recipe,
    pick_recipe,
    recipe_path,
    resolve_fields,
)
from seqembed.settings.request import Request
from seqembed.storage.digests import DigestIndex, join_digests
from seqembed.storage.paths import expand

Device = Literal["auto", "cuda", "cpu"]


def expand_reuse(patterns: Iterable[str]) -> list[Path]:
    """Return the files that the setting `reuse` names; a name without a file is left out."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        text = expand(pattern)
        paths = [text] if os.path.lexists(text) else sorted(glob.glob(text, recursive=True))
        found |= dict.fromkeys(Path(path) for path in paths if os.path.isfile(path))
    return list(found)


def list_reuse_files(patterns: Iterable[str]) -> list[Path]:
    """Return the files that the setting `reuse` names; ConfigError for one that names no file."""
    for pattern in patterns:
        if not expand_reuse([pattern]):
            raise ConfigError(f"reuse: {pattern} names no file; correct the path, or remove it")
    return expand_reuse(patterns)


class SourceFinder:
    """Finds the sources of a dataset's sequences.

    results: the dataset's folder in results/. request, model: what will be computed. device: the
    setting. stores: the folders store/ of other datasets. reuse: the files of the setting `reuse`.
    """

    def __init__(
        self,
        results: Path,
        request: Request,
        model: PreparedModel,
        device: Device,
        stores: Sequence[Path],
        reuse: Sequence[Path],
        logger: logging.Logger,
    ) -> None:
        self._results, self._stores, self._reuse = results, stores, reuse
        self._logger = logger
        self._fields = resolve_fields(request, model)
        if device != "auto":
            self._fields |= {"device": device}
        self._resolved = find_recipe(recipe_path(results / "recipes", request, model))
        self._sources: list[Source] = []
        self._columns: dict[str, SourceNumbers] = {}
        self._passed_over: list[str] = []
        self._recipes: dict[str, Recipe] = {}

    def find(self, digests: Digests) -> Sources:
        """Return the sources of m distinct sequences; digests: (m, 16) uint8.

        A file that cannot be used is named in the log. If several sources hold a row, the first
        one counts: results come before checkpoints, whose rows lie in many files.
        """
        stores, wanted = [self._results / "store", *self._stores], DigestIndex(digests)
        for path in self._list_stored(stores):
            self._add_result(path, wanted, asked=False)
        for path in self._reuse:
            self._add_result(path, wanted, asked=True)
        for recipe in self._list_recipes(self._results / "recipes"):
            folders = self._results.glob(f"checkpoints/{recipe.fingerprint[:12]}-*/shard_*")
            for folder in sorted(folders):
                self._add_folder(folder, recipe, wanted)
        return Sources(
            sources=self._sources,
            passed_over=self._passed_over,
            columns=self._columns,
            recipes={name: self._recipes[name] for name in self._columns},
        )

    def _list_stored(self, stores: Iterable[Path]) -> Iterator[Path]:
        """Yield the results in stores whose recipes the request can come to."""
        for store in stores:
            for recipe in self._list_recipes(store.parent / "recipes"):
                if (path := store_path(store, recipe.fingerprint)).exists():
                    yield path

    def _list_recipes(self, folder: Path) -> Iterator[Recipe]:
        """Yield the recipes in a folder that the request can come to, each once."""
        found = map(find_recipe, sorted(folder.glob("*.json")))
        fitting = {
            recipe.fingerprint: recipe
            for recipe in found
            if recipe is not None and self._explain_other(recipe) is None
        }
        yield from fitting.values()

    def _explain_other(self, recipe: Recipe) -> str | None:
        """Return in words why the request cannot come to a recipe; None: it can."""
        if self._resolved is None:
            return find_difference(recipe, self._fields, "this dataset")
        return find_difference(recipe, vars(self._resolved), "this dataset")

    def _add_result(self, path: Path, wanted: DigestIndex, *, asked: bool) -> None:
        """Add a result's rows, if it is whole; asked: it is of the setting `reuse`."""
        try:
            seal = read_seal(path)
            if seal in {*(source.seal for source in self._sources), *self._passed_over}:
                return
            with open_embeddings(path) as file:
                # Only now: a damaged copy has the seal of the whole file, which may come later.
                self._passed_over.append(seal)
                recipe = read_result_recipe(file)
                if problem := self._explain_other(recipe):
                    raise ShardError(problem)
                held = wanted.find_in(file.digests())
                source = describe_source(file, seal)
                self._recipes[recipe.fingerprint] = recipe
        except (FileFormatError, OSError) as error:
            # Another dataset's store may be replaced at any time.
            if asked or path.exists():
                self._logger.warning("%s: is not reused: %s", path, explain_unused(path, error))
            return
        if self._add(source, held):
            self._passed_over.remove(seal)

    def _add_folder(self, folder: Path, recipe: Recipe, wanted: DigestIndex) -> None:
        """Add the rows of a shard's checkpoint. The worker that takes them checks its blocks."""
        held: list[Digests] = []
        for path in list_saved(folder):
            with suppress(CheckpointError, ShardError):
                held.append(_read_digests(path))
        source = Source(path=str(folder), seal="", recipe=recipe.fingerprint)
        self._recipes[recipe.fingerprint] = recipe
        self._add(source, wanted.find_in(join_digests(held)))

    def _add(self, source: Source, held: Int64s) -> bool:
        """Add a source if it has rows that no other has; held: each row's place in it, (m,), or -1.

        Return whether it has.
        """
        new, column = np.flatnonzero(held >= 0), self._columns.get(source.recipe)
        if column is not None:
            new = new[column[new] < 0]
        if not len(new):
            return False
        if column is None:
            column = self._columns[source.recipe] = np.full(len(held), -1, np.int32)
        column[new] = len(self._sources)
        self._sources.append(source)
        return True


def describe_source(file: EmbeddingsFile, seal: str) -> Source:
    """Return a result as a source of rows; seal: as read_seal returned it."""
    cards = str(file.attributes.get("device_name", ""))
    device = cards or file.attributes.get("device", "cpu")
    return Source(
        path=str(file.path),
        seal=seal,
        recipe=str(file.attributes["recipe_fingerprint"]),
        made=f"{device}, PyTorch {_read_torch_version(file)}",
        device_name=cards,
    )


def read_result_recipe(file: EmbeddingsFile) -> Recipe:
    """Return the recipe of a merged result; ShardError if the file is not one, or has none."""
    try:
        # A file of another program may have attributes of any type, arrays among them.
        texts_and_numbers = {k: v for k, v in file.attributes.items() if isinstance(v, str | int)}
        recipe = pick_recipe(texts_and_numbers)
    except (TypeError, ConfigError) as error:
        raise ShardError(f"{file.path}: has no recipe that this version knows ({error})") from error
    if file.attributes.get("kind") != "embeddings":
        raise ShardError(f"{file.path}: is not an embeddings.h5")
    if file.attributes.get("recipe_fingerprint") != recipe.fingerprint:
        raise ShardError(f"{file.path}: its recipe has settings that this version does not know")
    return recipe


def _read_torch_version(file: EmbeddingsFile) -> str:
    """Return the version of PyTorch that computed a file's rows, for the log."""
    # Deeply nested brackets in JSON raise RecursionError.
    with suppress(ValueError, RecursionError):
        versions = json.loads(str(file.attributes.get("package_versions", "")))
        if isinstance(versions, dict) and "torch" in versions:
            return str(versions["torch"])
    return "of unknown version"


def _read_digests(path: Path) -> Digests:
    if path.suffix == ".h5":
        return read_saved(path).digests
    return read_block(path, check=False).digests


def explain_unused(path: Path, error: Exception) -> str:
    """Return an error's reason, without the path, and without the advice to remove the file."""
    return str(error).removeprefix(f"{path}: ").partition("; ")[0]
