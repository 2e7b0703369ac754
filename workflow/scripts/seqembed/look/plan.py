"""The plan of a run: what it will compute, and what that takes; nothing is embedded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqembed.index.parquet import Int64s, read_columns
from seqembed.index.reader import read_excluded, read_lengths_and_digests
from seqembed.look.asked import PlannedDataset, Surroundings
from seqembed.look.disk import DiskPlan, RowSizes, plan_disk, used_bytes
from seqembed.look.expected import expect_recipe
from seqembed.look.forecast import Speed, find_speed, predict_seconds
from seqembed.look.memory import MemoryPlan, plan_memory
from seqembed.look.shards import PlannedShard, is_finished, measure_texts, read_planned_shard
from seqembed.models.prepared import PreparedModel
from seqembed.settings.lengths import LengthPolicy, resolve_policy
from seqembed.settings.recipe import Recipe
from seqembed.storage.digests import DigestIndex, join_digests
from seqembed.worker.speed_records import read_speed_records


@dataclass(frozen=True, kw_only=True)
class Records:
    """What an index holds: how many ids get a row, how many get none; the bytes of their result."""

    sequences: int
    excluded: int
    result_bytes: int


@dataclass(frozen=True, kw_only=True, eq=False)
class DatasetPlan:
    """The plan of one dataset.

    policy: what is done with long sequences. finished: whether embeddings.h5 is there and right.
    at_once: how many shards run at the same time. speed: None if it is not known.
    """

    dataset: PlannedDataset
    model: PreparedModel
    recipe: Recipe
    policy: LengthPolicy
    records: Records
    shards: Sequence[PlannedShard]
    finished: bool
    at_once: int
    disk: DiskPlan
    memory: MemoryPlan
    speed: Speed | None

    @property
    def weights_known(self) -> bool:
        """Whether the recipe's fingerprint is right, by which rows are found."""
        return bool(self.model.sha256)

    @property
    def lengths(self) -> Int64s:
        """The lengths of the m distinct sequences in residues, (m,)."""
        return np.concatenate([shard.index.lengths for shard in self.shards])

    @property
    def tokens(self) -> Int64s:
        """Their numbers of tokens, without special ones, (m,)."""
        return np.concatenate([shard.index.tokens for shard in self.shards])

    @property
    def all_tokens(self) -> int:
        """How many tokens the model would read for all of them."""
        return int(self.policy.model_tokens(self.tokens).sum())

    @property
    def missing(self) -> list[int]:
        """How many sequences of each shard are to be computed."""
        return [int(shard.missing.sum()) for shard in self.shards]

    @property
    def missing_tokens(self) -> list[int]:
        """How many tokens the model has to read for these."""
        read = self.policy.model_tokens
        return [int(read(shard.index.tokens[shard.missing]).sum()) for shard in self.shards]

    @property
    def costs(self) -> list[float]:
        """What computing these costs, as LengthPolicy.costs() counts."""
        of = self.policy.costs
        return [float(of(shard.index.tokens[shard.missing]).sum()) for shard in self.shards]

    @property
    def shares(self) -> list[float]:
        """The predicted share of each shard in the time of all; 0 if nothing is to be computed."""
        costs = self.costs
        return [cost / (sum(costs) or 1.0) for cost in costs]

    @property
    def seconds(self) -> float | None:
        """How long the run will take; None if the speed is not known."""
        if self.finished:
            return 0.0
        if self.speed is None:
            return None
        return predict_seconds(self.costs, self.speed, self.at_once, self.disk.result)


def plan_dataset(
    dataset: PlannedDataset,
    around: Surroundings,
    model: PreparedModel,
    indexes: Path,
    logger: logging.Logger,
) -> DatasetPlan:
    """Return the plan of a dataset.

    indexes: the folder with index.parquet and the folder index/, which is not the dataset's own if
    the model is not prepared yet. Raises IndexFormatError if an index is damaged.
    """
    results, request = around.results / dataset.name, dataset.request
    recipe = expect_recipe(
        results / "recipes", request, model, around.asked, around.device, around.environment
    )
    policy = resolve_policy(request.long_sequences, request.max_length, model)
    paths = [indexes / f"index/shard_{rank}.parquet" for rank in range(dataset.shards)]
    shards = [read_planned_shard(path, results, recipe) for path in paths]
    sizes = RowSizes.of(recipe, model.architecture.width, policy)
    records = _measure_records(indexes / "index.parquet", shards, sizes)
    finished = dataset.indexed and is_finished(results, recipe)
    at_once = min(around.at_once(dataset.threads), dataset.shards)
    disk = plan_disk(
        results,
        shards,
        recipe,
        sizes,
        result=records.result_bytes,
        at_once=at_once,
        new_indexes=0 if dataset.indexed else used_bytes(indexes),
    )
    most = max(int(shard.missing.sum()) for shard in shards)
    waiting = min(most, around.checkpoint_sequences) * sizes.row
    longest = max(policy.longest_read(shard.index.tokens[shard.missing]) for shard in shards)
    return DatasetPlan(
        dataset=dataset,
        model=model,
        recipe=recipe,
        policy=policy,
        records=records,
        shards=shards,
        finished=finished,
        at_once=at_once,
        disk=disk,
        memory=plan_memory(
            model, recipe, around.token_budget, dataset.threads, longest=longest, rows=waiting
        ),
        speed=find_speed(
            read_speed_records(around.speeds, dataset.model, logger),
            model,
            recipe,
            around.device_name(recipe.device),
            dataset.threads,
        ),
    )


def _measure_records(index: Path, shards: Sequence[PlannedShard], sizes: RowSizes) -> Records:
    """Return what an index holds, in sequences of which each is in one of the shards."""
    _, digests = read_lengths_and_digests(index)
    given_up = np.concatenate([shard.given_up for shard in shards])
    found = DigestIndex(join_digests(shard.index.digests for shard in shards)).find(digests)
    kept = ~read_excluded(index) & (found >= 0)
    kept[kept] = ~given_up[found[kept]]
    ids = measure_texts(read_columns(index, ["sequence_id"])["sequence_id"].combine_chunks())
    tokens = np.concatenate([shard.index.tokens for shard in shards])[found[kept]]
    return Records(
        sequences=int(kept.sum()),
        excluded=int((~kept).sum()),
        result_bytes=sizes.file(ids[kept], tokens),
    )
