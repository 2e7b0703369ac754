"""Take rows that results and other checkpoints hold, in place of computing them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from seqembed.checkpoints.find_sources import (
    describe_source,
    expand_reuse,
    explain_unused,
    read_result_recipe,
)
from seqembed.checkpoints.manifest_and_failures import forget_quarantined, read_manifest
from seqembed.checkpoints.saved_rows import read_saved
from seqembed.checkpoints.taken_files import (
    TakenRows,
    link_checkpoint,
    link_result,
    read_checksum,
    read_refused,
    write_taken,
)
from seqembed.errors import CheckpointError, IndexFormatError, ShardError
from seqembed.index.parquet import Digests, Int64s
from seqembed.index.reader import read_source_numbers
from seqembed.index.sources import Source, SourceNumbers, Sources, read_sources
from seqembed.results.reader import open_embeddings, store_path
from seqembed.results.seal import read_seal
from seqembed.storage.digests import DigestIndex, from_hex, to_hex
from seqembed.storage.paths import list_stores


class RowTaker:
    """Finds the files that hold rows of a shard, and links them into the checkpoint folder.

    folder: the checkpoint folder. digests: (n, 16) uint8, of the shard's sequences, in order.
    finished: the hex digests of sequences that have a row in the folder, which are left out.
    recipe: the fingerprint of the recipe; files of another one are passed over.

    taken: which of the shard's sequences have their rows in the linked files, (n,) bool.
    missing: which of them have no row yet, (n,) bool.
    from_results: how many of them are in results; the others are in checkpoints of other splits.
    device_names: the GPUs that computed them, as in the attribute device_name.
    """

    def __init__(
        self,
        folder: Path,
        digests: Digests,
        finished: Collection[str],
        recipe: str,
        logger: logging.Logger,
    ) -> None:
        self._folder, self._digests, self._recipe, self._logger = folder, digests, recipe, logger
        self._index = DigestIndex(digests)
        self.missing = self._index.find_in(from_hex(finished)) < 0
        self.taken = np.zeros(len(digests), bool)
        self.from_results = 0
        self.device_names: list[str] = []
        self._files: list[str] = []

    @property
    def count(self) -> int:
        """How many rows are taken."""
        return int(self.taken.sum())

    def ids(self) -> list[str]:
        """Return the hex digests of the taken rows."""
        return to_hex(self._digests[self.taken])

    def take(self, index_path: Path, results: Path, model_config: Mapping[str, Any]) -> None:
        """Take all rows that can be found, and write to the folder which files they are in.

        index_path: the shard's index, beside which split wrote its sources. results: the dataset's
        folder, with its own store. model_config: `stores`, the folders store/ of other datasets,
        and `reuse`, files of the setting; either may be missing. Results that split has not seen
        are looked up here, and so are those that a merge found damaged: these are checked whole. A
        sequence that was quarantined, and has a row now, is so no more.
        """
        found = self._read_sources(index_path.parent)
        refused = read_refused(results / "checkpoints")
        doubted = [source for source in found.sources if read_checksum(source.seal) in refused]
        numbers = read_source_numbers(index_path, self._recipe)
        if numbers is not None and found.sources:
            for number, rows in self._group(numbers):
                if (source := found.sources[number]) not in doubted:
                    with self._without_links(source.path):
                        self._take_source(source, rows)
        known = {*(source.seal for source in found.sources), *found.passed_over}
        known -= {source.seal for source in doubted}
        stores = list_stores(results, model_config)
        paths = [store_path(store, self._recipe) for store in stores]
        paths += [*expand_reuse(model_config.get("reuse", ())), *(Path(s.path) for s in doubted)]
        for path in dict.fromkeys(paths):
            if self.missing.any() and path.is_file():
                with self._without_links(path):
                    self._take_new(path, known)
        write_taken(self._folder, TakenRows(self.count, self._files))
        # What is damaged is named, and mended, where the failures of the shard are needed.
        with suppress(CheckpointError):
            forget_quarantined(self._folder, self._digests[self.taken])

    def _group(self, numbers: SourceNumbers) -> Iterator[tuple[int, Int64s]]:
        """Yield the number of each source, and the (k,) sequences without a row that it has.

        numbers: of each sequence's source, (n,); -1: it has none.
        """
        rows = np.flatnonzero(self.missing & (numbers >= 0))
        rows = rows[np.argsort(numbers[rows], kind="stable")]
        groups = np.unique(numbers[rows], return_index=True, return_counts=True)
        for number, start, count in zip(*(part.tolist() for part in groups), strict=True):
            yield number, rows[start : start + count]

    @contextmanager
    def _without_links(self, path: Path | str) -> Iterator[None]:
        """Leave out a source on a file system where nothing can be linked."""
        try:
            yield
        except CheckpointError as error:
            self._logger.warning("the rows of %s are made anew: %s", path, error)

    def _read_sources(self, folder: Path) -> Sources:
        try:
            return read_sources(folder)
        except IndexFormatError as error:
            self._logger.warning("what split found is not taken from checkpoints: %s", error)
            return Sources()

    def _take_source(self, source: Source, held: Int64s) -> None:
        """Take rows of a source that split found; held: the (k,) sequences that it has."""
        if not source.seal:
            self._take_checkpoint(Path(source.path))
        elif link := link_result(self._folder, Path(source.path), source.seal):
            self._add_result(link, held, source)
        else:
            words = "%s: changed since split found rows in it; they are made anew"
            self._logger.warning(words, source.path)

    def _take_checkpoint(self, source: Path) -> None:
        """Take the rows of a shard of another split; a worker may be writing there even now."""
        for path in link_checkpoint(self._folder, source):
            try:
                saved = read_saved(path)
            except (CheckpointError, ShardError) as error:
                self._logger.warning("rows of an earlier split are made anew: %s", error)
                continue
            if self._add(path, self._find(saved.digests), str(source)):
                with suppress(CheckpointError):
                    manifest = read_manifest(source)
                    self.device_names.append(manifest.device_name if manifest else "")

    def _take_new(self, path: Path, known: Collection[str]) -> None:
        """Take rows of a result that split has not seen, or that a merge refused: read it whole."""
        try:
            seal = read_seal(path)
            if seal in known:
                return
            with open_embeddings(path) as file:
                if read_result_recipe(file).fingerprint != self._recipe:
                    return
                held = self._find(file.digests())
                source = describe_source(file, seal)
        except (ShardError, OSError) as error:
            reason = explain_unused(path, error)
            self._logger.warning("an earlier result is not used: %s: %s", path, reason)
            return
        new = self.missing[held].any()
        if new and (link := link_result(self._folder, path, seal, whole=True)):
            self._add_result(link, held, source)

    def _add_result(self, link: Path, held: Int64s, source: Source) -> None:
        self.from_results += self._add(link, held, f"{source.path} ({source.made})")
        self.device_names.append(source.device_name)

    def _find(self, digests: Digests) -> Int64s:
        """Return which of the shard's sequences a file of (m, 16) digests holds, (k,)."""
        return np.flatnonzero(self._index.find_in(digests) >= 0)

    def _add(self, path: Path, held: Int64s, source: str) -> int:
        """Count the rows that a file holds as taken, unless they have a row; return how many."""
        new = held[self.missing[held]]
        if count := len(new):
            self.taken[new], self.missing[new] = True, False
            self._files.append(str(path))
            self._logger.info("the rows of %s sequences are taken from %s", f"{count:,}", source)
        return count
