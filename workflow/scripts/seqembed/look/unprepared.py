"""Plan a dataset whether or not its model is prepared; a model's weights are never downloaded."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seqembed.checkpoints.find_sources import SourceFinder, list_reuse_files
from seqembed.checks.residues import Gaps, ResidueCheck, Suspicious
from seqembed.fasta.files import find_fasta_files
from seqembed.index.sequence_ids import IdStyle
from seqembed.index.split import find_nothing, split_index
from seqembed.index.writer import write_index
from seqembed.look.asked import PlannedDataset, Surroundings
from seqembed.look.plan import DatasetPlan, plan_dataset
from seqembed.models.encoders.tokenization import limit_tokenizer_threads
from seqembed.models.prepared import PreparedModel, load_tokenizer, read_prepared
from seqembed.settings.lengths import resolve_policy


@dataclass(frozen=True)
class Reading:
    """The settings `ids`, `gaps` and `suspicious`: how FASTA files are read."""

    ids: IdStyle
    gaps: Gaps
    suspicious: Suspicious


def plan_any(
    dataset: PlannedDataset,
    datasets: Sequence[PlannedDataset],
    around: Surroundings,
    reading: Reading,
    logger: logging.Logger,
) -> DatasetPlan:
    """Return the plan of a dataset; datasets: all, whose results may hold some of its rows.

    If the dataset is not indexed, its FASTA files are indexed into a temporary folder, which is
    removed, and only the small files of its model are downloaded. Raises the errors of index.py and
    split.py.
    """
    if dataset.indexed:
        model = read_prepared(around.models / f"{dataset.model}.json")
        return plan_dataset(dataset, around, model, around.results / dataset.name, logger)
    # Not at the top, because it imports PyTorch, which takes seconds.
    from seqembed.models.preview import preview_model

    model = preview_model(dataset.model, dataset.source, around.models, logger)
    model.layer(dataset.request.layer)
    model.check_pooling(dataset.request.pooling)
    others = [other for other in datasets if other.model == dataset.model and other is not dataset]
    stores = [around.results / other.name / "store" for other in others]
    with tempfile.TemporaryDirectory(prefix="seqembed-plan-") as name:
        _index(dataset, model, reading, Path(name), around, stores, logger)
        return plan_dataset(dataset, around, model, Path(name), logger)


def _index(
    dataset: PlannedDataset,
    model: PreparedModel,
    reading: Reading,
    folder: Path,
    around: Surroundings,
    stores: Sequence[Path],
    logger: logging.Logger,
) -> None:
    """Write index.parquet and index/shard_{rank}.parquet to a folder, as the rules do."""
    tokenizer, facts, request = load_tokenizer(model), model.facts, dataset.request
    check = ResidueCheck(
        tokenizer.letters,
        facts.molecule,
        dataset.invalid_residues,
        gaps=reading.gaps,
        suspicious=reading.suspicious,
    )
    index, residues = folder / "index.parquet", folder / "residues.bin"
    write_index(find_fasta_files(list(dataset.fasta)), index, residues, reading.ids, check)
    if summary := check.summary():
        logger.warning("%s", summary)
    results = around.results / dataset.name
    finder = SourceFinder(
        results, request, model, around.device, stores, list_reuse_files(dataset.reuse), logger
    )
    limit_tokenizer_threads(os.environ, 1)
    find = finder.find if model.sha256 else find_nothing
    split_index(
        index,
        residues,
        [folder / f"index/shard_{rank}.parquet" for rank in range(dataset.shards)],
        tokenizer=tokenizer,
        policy=resolve_policy(request.long_sequences, request.max_length, model),
        unit=facts.unit,
        find=find,
    )
    residues.unlink()
