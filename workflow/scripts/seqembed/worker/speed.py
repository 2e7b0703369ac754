"""Record how fast this worker was, for the plan of another run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from seqembed.machine.processor import name_processor
from seqembed.worker.decisions import Run
from seqembed.worker.device import add_name
from seqembed.worker.progress import Progress
from seqembed.worker.speed_records import SpeedRecord, write_speed_record


def record_speed(
    run: Run, rows: Sequence[int], progress: Progress, output_dir: Path, config: Mapping[str, Any]
) -> None:
    """Write the record of a worker that has computed `rows` of its shard.

    output_dir: the folder of the dataset's shards. config: gpu_worker's, whose `speeds` names the
    folder of all records; without it, nothing is written. A record that cannot be written costs
    the run nothing: that is logged.
    """
    if folder := config.get("speeds"):
        dataset, rank, model = output_dir.parent.name, run.shard.rank, run.model.name
        try:
            record = make_record(run, rows, progress)
            write_speed_record(Path(folder), record, model=model, dataset=dataset, rank=rank)
        except OSError as error:
            run.logger.info("the speed of this run is not recorded: %s", error)


def make_record(run: Run, rows: Sequence[int], progress: Progress) -> SpeedRecord:
    tokens = run.shard.tokens[np.array(rows, np.int64)]
    lived = time.time() - psutil.Process().create_time()
    recipe = run.recipe
    return SpeedRecord(
        weights=recipe.weights,
        layer=recipe.layer,
        pooling=recipe.pooling,
        precision=recipe.precision,
        storage=recipe.storage,
        per_residue=recipe.per_residue,
        long_sequences=recipe.long_sequences,
        max_length=recipe.max_length,
        kernels=recipe.kernels,
        device=run.device.type,
        device_name=add_name(run.device, "") or name_processor(),
        threads=run.settings.threads,
        sequences=len(rows),
        tokens=progress.computed,
        cost=float(run.policy.costs(tokens).sum()),
        seconds=progress.seconds,
        start_seconds=max(0.0, lived - progress.seconds),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )
