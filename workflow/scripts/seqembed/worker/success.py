"""Describe to the supervisor a shard that is complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seqembed.checkpoints.take_rows import RowTaker


def describe_success(
    rank: int, shard_path: Path, finished: int, taker: RowTaker, quarantined: int, computed: int = 0
) -> dict[str, Any]:
    """Return the status of a complete shard.

    finished: how many rows earlier runs computed. taker: knows the rows of other files; those of
    other splits' checkpoints count as resumed, those of results as reused.
    """
    resumed = finished + taker.count - taker.from_results
    return {
        "rank": rank,
        "status": "complete",
        "shard_path": str(shard_path),
        "num_sequences": finished + taker.count + computed,
        "resumed_sequences": resumed,
        "computed": computed,
        "reused": taker.from_results,
        "quarantined": quarantined,
    }
