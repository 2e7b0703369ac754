"""results/{dataset}/plan.json: a plan for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seqembed.look.plan import DatasetPlan
from seqembed.storage.json_files import write_json

FORMAT_VERSION = "1"
PLAN = "plan.json"


def write_plan(plan: DatasetPlan, path: Path) -> None:
    """Write a plan as JSON: numbers of sequences, residues, tokens, bytes and seconds."""
    write_json(path, "plan", FORMAT_VERSION, _describe(plan))


def _describe(plan: DatasetPlan) -> dict[str, Any]:
    seconds = plan.seconds
    return {
        "dataset": plan.dataset.name,
        "model": plan.model.name,
        "model_prepared": plan.dataset.indexed,
        "recipe": plan.recipe.fields(),
        "recipe_fingerprint": plan.recipe.fingerprint if plan.weights_known else None,
        "finished": plan.finished,
        "sequences": plan.records.sequences,
        "excluded": plan.records.excluded,
        "distinct": len(plan.tokens),
        "to_compute": sum(plan.missing),
        "residues": int(plan.lengths.sum()),
        "shortest": int(plan.lengths.min(initial=plan.lengths.max(initial=0))),
        "longest": int(plan.lengths.max(initial=0)),
        "over_length": int(plan.policy.is_long(plan.tokens).sum()),
        "tokens": plan.all_tokens,
        "tokens_to_compute": sum(plan.missing_tokens),
        "shards": list(_describe_shards(plan)),
        "at_once": plan.at_once,
        "disk_bytes": asdict(plan.disk),
        "memory_bytes": asdict(plan.memory),
        "seconds": None if seconds is None else round(seconds, 1),
        "speed": plan.speed and asdict(plan.speed),
    }


def _describe_shards(plan: DatasetPlan) -> Iterator[dict[str, Any]]:
    columns = plan.shards, plan.missing, plan.missing_tokens, plan.shares
    for shard, missing, tokens, share in zip(*columns, strict=True):
        yield {
            "rank": shard.index.rank,
            "sequences": len(shard.index.rows),
            "reused": int(shard.reused.sum()),
            "saved": int(shard.saved.sum()),
            "given_up": int(shard.given_up.sum()),
            "to_compute": missing,
            "tokens_to_compute": tokens,
            "share": round(share, 6),
        }
