"""The plan of a run: what it will compute, and what that takes; nothing is embedded."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from seqembed.environment import EnvConfig
from seqembed.errors import ConfigError
from seqembed.index.parquet import Int64s, read_columns
from seqembed.index.reader import read_excluded, read_lengths_and_digests
from seqembed.look.disk import DiskPlan, RowSizes, plan_disk, used_bytes
from seqembed.look.expected import Asked, Kind, count_gpus, expect_device, expect_recipe
from seqembed.look.forecast import Speed, find_speed, predict_seconds
from seqembed.look.memory import MemoryPlan, count_weights, plan_memory
from seqembed.look.shards import PlannedShard, is_finished, measure_texts, read_planned_shard
from seqembed.machine.devices import name_gpus
from seqembed.machine.processor import name_processor
from seqembed.models.prepared import PreparedModel
from seqembed.settings.lengths import LengthPolicy, resolve_policy
from seqembed.settings.recipe import Recipe
from seqembed.settings.request import Request
from seqembed.storage.digests import DigestIndex, join_digests
from seqembed.storage.json_files import write_json
from seqembed.worker.speed_records import read_speed_records

FORMAT_VERSION = "1"
PLAN = "plan.json"


@dataclass(frozen=True, kw_only=True)
class PlannedDataset:
    """The settings of a dataset to plan; raises ConfigError for a value that is not allowed.

    model: its name. source: where it comes from. fasta: the paths and globs. shards: how many.
    request: what is computed. invalid_residues: the setting. reuse: paths and globs of earlier
    results. threads: how many CPU threads a worker gets. indexed: whether the dataset's index is
    there, because its model is prepared.
    """

    name: str
    model: str
    source: str
    fasta: Sequence[str]
    shards: int
    request: Request
    invalid_residues: Literal["error", "unk", "skip"]
    reuse: Sequence[str]
    threads: int
    indexed: bool


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What all datasets of a plan share.

    results, models, speeds: the folders. asked: the setting `device`. token_budget: the setting.
    checkpoint_sequences: after how many sequences a checkpoint is due. cores, gpu, jobs: what
    Snakemake was given for each, which limits how many shards run at once; None: no limit. cluster:
    whether jobs run on other machines.
    """

    results: Path
    models: Path
    speeds: Path
    asked: Asked
    token_budget: Literal["auto"] | int
    checkpoint_sequences: int
    cores: int | None
    gpu: int | None
    jobs: int | None
    cluster: bool
    environment: EnvConfig

    @property
    def gpus(self) -> int:
        """How many GPUs of this machine jobs may use; 0 if they run on others."""
        return 0 if self.cluster else count_gpus(self.environment)

    @property
    def device(self) -> Kind:
        """Where workers will compute."""
        return expect_device(self.asked, self.gpus)

    def at_once(self, threads: int) -> int:
        """Return how many shards run at the same time; threads: of a worker."""
        limits = [self.jobs] if self.cluster else [self.cores and self.cores // threads]
        if self.device == "cuda":
            limits += [self.gpu, self.gpus or None]
        return max(1, min((limit for limit in limits if limit is not None), default=1))

    def device_name(self, device: Kind) -> str:
        """Return the name of the card or processor that will compute; "" if it is elsewhere."""
        if self.cluster:
            return ""
        if device == "cpu":
            return name_processor()
        return next(iter(name_gpus()), "")


@dataclass(frozen=True, kw_only=True, eq=False)
class DatasetPlan:
    """The plan of one dataset.

    sequences: how many ids get a row. excluded: how many records get none. finished: whether
    embeddings.h5 is there and right. weights: about how many weights the encoder has.
    weights_here: whether the model is prepared. reused_known: whether rows of earlier results were
    looked for. seconds: None if the speed is not known.
    """

    dataset: PlannedDataset
    recipe: Recipe
    policy: LengthPolicy
    unit: str
    sequences: int
    excluded: int
    shards: Sequence[PlannedShard]
    finished: bool
    weights: int
    weights_here: bool
    reused_known: bool
    at_once: int
    disk: DiskPlan
    memory: MemoryPlan
    speed: Speed | None
    seconds: float | None

    @property
    def lengths(self) -> Int64s:
        """The lengths of the m distinct sequences in residues, (m,)."""
        return _join(self.shards, "lengths")

    @property
    def tokens(self) -> Int64s:
        """Their numbers of tokens, without special ones, (m,)."""
        return _join(self.shards, "tokens")

    @property
    def missing(self) -> Sequence[NDArray[np.bool_]]:
        """Of each shard's n sequences, which are to be computed, (n,)."""
        return [shard.missing & (not self.finished) for shard in self.shards]

    @property
    def missing_tokens(self) -> list[int]:
        """How many tokens the model has to read for each shard."""
        pairs = zip(self.shards, self.missing, strict=True)
        return [int(self.policy.model_tokens(s.index.tokens[m]).sum()) for s, m in pairs]

    @property
    def shares(self) -> list[float]:
        """The predicted share of each shard in the time of all; 0 if nothing is to be computed."""
        costs = missing_costs(self.shards, self.missing, self.policy)
        return [cost / (sum(costs) or 1.0) for cost in costs]


def missing_costs(
    shards: Sequence[PlannedShard], missing: Sequence[NDArray[np.bool_]], policy: LengthPolicy
) -> list[float]:
    """Return what computing the missing sequences of each shard costs, as policy.costs() counts."""
    pairs = zip(shards, missing, strict=True)
    return [float(policy.costs(shard.index.tokens[lacking]).sum()) for shard, lacking in pairs]


def _join(shards: Sequence[PlannedShard], name: str) -> Int64s:
    return np.concatenate([getattr(shard.index, name) for shard in shards])


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
    finished = dataset.indexed and is_finished(results, recipe)
    at_once = min(around.at_once(dataset.threads), dataset.shards)
    sizes = RowSizes.of(recipe, model.architecture.width, policy)
    sequences, excluded, result = _measure_result(indexes / "index.parquet", shards, sizes)
    missing = [shard.missing & (not finished) for shard in shards]
    rows = around.checkpoint_sequences * sizes.row
    records = read_speed_records(around.speeds, dataset.model, logger)
    name = around.device_name(recipe.device)
    speed = find_speed(records, model, recipe, name, dataset.threads)
    costs = missing_costs(shards, missing, policy)
    seconds = 0.0 if finished else None
    if speed and not finished:
        seconds = predict_seconds(costs, speed, at_once, result)
    disk = plan_disk(
        results,
        shards,
        recipe,
        sizes,
        result=result,
        at_once=at_once,
        new_indexes=0 if dataset.indexed else used_bytes(indexes / "index"),
        finished=finished,
    )
    return DatasetPlan(
        dataset=dataset,
        recipe=recipe,
        policy=policy,
        unit="residues" if model.facts.molecule == "protein" else "tokens",
        sequences=sequences,
        excluded=excluded,
        shards=shards,
        finished=finished,
        weights=count_weights(model.architecture, model.architecture.layers),
        weights_here=dataset.indexed,
        reused_known=bool(model.sha256),
        at_once=at_once,
        disk=disk,
        memory=plan_memory(model.architecture, recipe, around.token_budget, dataset.threads, rows),
        speed=speed,
        seconds=seconds,
    )


def _measure_result(
    index: Path, shards: Sequence[PlannedShard], sizes: RowSizes
) -> tuple[int, int, int]:
    """Return how many ids get a row, how many get none, and the bytes of embeddings.h5."""
    kept = ~read_excluded(index)
    _, digests = read_lengths_and_digests(index)
    own = join_digests(shard.index.digests for shard in shards)
    given_up = np.concatenate([shard.given_up for shard in shards])
    found = DigestIndex(own).find(digests)
    kept &= found >= 0
    kept[kept] = ~given_up[found[kept]]
    ids = measure_texts(read_columns(index, ["sequence_id"])["sequence_id"].combine_chunks())
    tokens = np.concatenate([shard.index.tokens for shard in shards])[found[kept]]
    return int(kept.sum()), int((~kept).sum()), sizes.file(ids[kept], tokens)


def write_plan(plan: DatasetPlan, path: Path) -> None:
    """Write a plan as JSON."""
    write_json(path, "plan", FORMAT_VERSION, describe(plan))


def describe(plan: DatasetPlan) -> dict[str, Any]:
    """Return a plan for its JSON file: numbers of sequences, residues, tokens, bytes, seconds."""
    long = plan.policy.is_long(plan.tokens)
    triples = zip(plan.shards, plan.missing, plan.missing_tokens, plan.shares, strict=True)
    return {
        "dataset": plan.dataset.name,
        "model": plan.dataset.model,
        "model_prepared": plan.weights_here,
        "recipe": plan.recipe.fields(),
        "recipe_fingerprint": plan.recipe.fingerprint if plan.reused_known else None,
        "sequences": plan.sequences,
        "excluded": plan.excluded,
        "distinct": len(plan.tokens),
        "finished": plan.finished,
        "to_compute": int(sum(lacking.sum() for lacking in plan.missing)),
        "residues": int(plan.lengths.sum()),
        "tokens": int(plan.policy.model_tokens(plan.tokens).sum()),
        "tokens_to_compute": sum(plan.missing_tokens),
        "shortest": int(plan.lengths.min(initial=0)),
        "longest": int(plan.lengths.max(initial=0)),
        "over_length": int(long.sum()),
        "shards": [
            {
                "rank": shard.index.rank,
                "sequences": len(shard.index.rows),
                "reused": int(shard.reused.sum()),
                "saved": int(shard.saved.sum()),
                "given_up": int(shard.given_up.sum()),
                "to_compute": int(lacking.sum()),
                "tokens_to_compute": tokens,
                "share": round(share, 6),
            }
            for shard, lacking, tokens, share in triples
        ],
        "at_once": plan.at_once,
        "disk_bytes": asdict(plan.disk),
        "memory_bytes": asdict(plan.memory),
        "seconds": plan.seconds and round(plan.seconds, 1),
        "speed": plan.speed and asdict(plan.speed),
    }


def find_shortage(plans: Sequence[DatasetPlan], results: Path) -> int:
    """Return how many bytes the disk of `results` lacks for all plans; 0 if it has room."""
    wanted = sum(plan.disk.peak - plan.disk.now for plan in plans)
    return max(0, wanted - free_bytes(results))


def free_bytes(folder: Path) -> int:
    """Return how many bytes of a folder's disk are free; the folder may not exist yet."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def read_dataset(content: Mapping[str, Any]) -> PlannedDataset:
    """Return a dataset's settings from JSON; ConfigError for a bad, missing or unknown key."""
    try:
        return PlannedDataset(**{**content, "request": Request(**content["request"])})
    except (TypeError, KeyError) as error:
        raise ConfigError(f"--datasets: a key is missing or not known: {error}") from error
