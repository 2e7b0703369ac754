"""The worker: embeds one shard on the device that it is given.

`gpu_worker` is the list of steps; its helpers are module-level, so that a spawned process finds
them. Ids at their boundary are hex digests of residues: an edited header loses no checkpoint.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seqembed.checkpoints.manifest import (
    MANIFEST,
    CheckpointManifest,
    clear,
    count_twice,
    name_other_folders,
    read_finished,
    read_manifest,
    sweep,
    write_manifest,
)
from seqembed.checkpoints.shard import adopt_index, assemble_shard
from seqembed.checkpoints.store import copy_from_store
from seqembed.environment import EnvConfig
from seqembed.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    CheckpointError,
    ConfigError,
    InterruptedRun,
)
from seqembed.index.table import read_assigned
from seqembed.inference.failure_tracker import FailureTracker
from seqembed.machine.processes import StopFlag
from seqembed.models.prepare import load_prepared
from seqembed.models.prepared import load_tokenizer, read_prepared
from seqembed.results.reader import store_path
from seqembed.settings.precision import resolve_precision, torch_dtype
from seqembed.storage.locks import lock_folder
from seqembed.storage.publish import link, set_aside
from seqembed.worker.run import Run, open_run
from seqembed.worker.status import describe_error
from seqembed.worker.writer import CheckpointWriter
from seqembed.worker_logging import Progress, setup_worker_logging

# What a model is loaded with to compute again what was not finite.
FP32 = {"precision": "fp32"}


def gpu_worker(
    rank: int,
    world_size: int,
    results_queue: Queue,  # type: ignore[type-arg]  # it takes no argument when it runs
    index_path: Path,
    output_dir: Path,
    model_config: dict[str, Any],
) -> None:
    """Embed the shard of `rank` into `output_dir/shard_{rank}.h5`; put one status on the queue.

    Runs in a process of its own, on the first device that CUDA_VISIBLE_DEVICES leaves to it.
    SIGTERM makes it write a checkpoint at once, and another one of the batches that were begun, and
    exit 143; any failure keeps what is finished and exits 1.
    """
    sigterm = StopFlag()
    logger = setup_worker_logging(rank, Path(model_config["log_path"]))
    try:
        run = open_run(index_path, output_dir, model_config, logger)
        sigterm.leave_if_asked()
        key = {"checkpoint_key": run.checkpoint_key, "precision": run.recipe.precision}
        config = _extract_checkpoint_config({**model_config, **key}, output_dir)
        opened = _open_checkpoint_dir(config, output_dir, rank, sigterm.leave_if_asked, logger)
        with opened as (base, alone):
            folder, restart = base / f"shard_{rank}", config["force_restart"]
            keeps = config["enable_checkpointing"] and not restart
            earlier = _load_checkpoint_manifest(rank, keeps, base, logger)
            if keeps:
                _copy_from_store(run, folder, output_dir, logger)
            resumed_ids, resumed_rows = _resume_from_existing_checkpoints(
                rank, base, restart, logger
            )
            if alone:
                sweep(folder)
            trials = _open_trials(run, folder, index_path, model_config)
            settled = resumed_ids | trials.quarantined
            rows = _load_and_filter_index(rank, world_size, index_path, settled, logger)
            write_manifest(folder, manifest := run.manifest(earlier))
            adopt_index(folder, index_path)
            writer = run.open_writer(folder, rows, config)
            if rows:
                sigterm.leave_if_asked()
                model, convert = _load_model({**model_config, **key}, run.device, logger)
                load_fp32 = partial(_load_model, model_config | FP32, run.device, logger)
                batches, tokens = run.load_batches(index_path, rows, manifest, convert, trials)
                progress = Progress(logger, len(run.shard.rows), len(resumed_ids), tokens)
                try:
                    runner = run.open_runner(
                        model, trials, load_fp32, manifest.token_budget, len(batches)
                    )
                    for batch in runner.run(writer.make_room(batches), sigterm.asked):
                        count = writer.add(batch)
                        progress.advance(count, batch.tokens, writer.written)
                        if trials.retrying or sigterm.asked():
                            writer.write()
                    sigterm.leave_if_asked()
                finally:
                    writer.close()
                    progress.log(writer.spent)
                trials.finish()
            saved = _save_shard(
                rank, folder, writer.blocks, writer.ids, resumed_ids, resumed_rows, logger
            )
            link(saved, output_dir / saved.name)
        status = {"rank": rank, "status": "complete", "shard_path": str(output_dir / saved.name)}
        results_queue.put(status | _count(run, config, resumed_ids, writer, trials))
    except Exception as error:  # noqa: BLE001 (the boundary of the process: all is reported)
        _report_error(rank, error, results_queue, logger)
        sys.exit(EXIT_INTERRUPTED if isinstance(error, InterruptedRun) else EXIT_FAILED)
    finally:
        # What stands in the queue's buffer at a hard exit is lost.
        results_queue.close()
        results_queue.join_thread()


def _extract_checkpoint_config(model_config: dict[str, Any], output_dir: Path) -> dict[str, Any]:
    """Where checkpoints lie, and when one is due; raises ConfigError, naming a missing key.

    `checkpoint_dir` holds the `shard_{rank}` folders of one recipe and shard, which
    `checkpoint_key` names; it stands in `checkpoint_base_dir`.
    """
    base = Path(model_config.get("checkpoint_base_dir", output_dir.parent / "checkpoints"))
    try:
        return {
            "enable_checkpointing": bool(model_config.get("enable_checkpointing", True)),
            "force_restart": bool(model_config.get("force_restart", False)),
            "checkpoint_base_dir": base,
            "checkpoint_seq_threshold": int(model_config["checkpoint_seq_threshold"]),
            "checkpoint_time_threshold": float(model_config["checkpoint_time_threshold"]),
            "checkpoint_dir": base / model_config.get("checkpoint_key", ""),
        }
    except KeyError as error:
        raise ConfigError(f"model_config lacks {error}") from error


def _load_checkpoint_manifest(
    rank: int, enable_checkpointing: bool, checkpoint_base_dir: Path, logger: logging.Logger
) -> CheckpointManifest | None:
    """The manifest of an earlier run in `checkpoint_base_dir/shard_{rank}`.

    None where there is none, where checkpoints are off, or where it is damaged: then it is set
    aside with a warning, and only the token budget of its plan is forgotten.
    """
    if not enable_checkpointing:
        return None
    folder = checkpoint_base_dir / f"shard_{rank}"
    try:
        return read_manifest(folder)
    except CheckpointError as error:
        logger.warning("%s; set aside as %s", error, set_aside(folder / MANIFEST).name)
        return None


def _resume_from_existing_checkpoints(
    rank: int, checkpoint_dir: Path, force_restart: bool, logger: logging.Logger
) -> tuple[Set[str], np.ndarray | None]:
    """What is finished: hex digests in their order, and rows (n, D) on disk, None for none.

    Raises RuntimeError for a folder in the old format, which holds no rows we could trust.
    """
    if any(checkpoint_dir.glob("*.done")) and not any(checkpoint_dir.glob("shard_*")):
        raise RuntimeError(
            f"{checkpoint_dir}: holds checkpoints of an older program (*.done files); move the "
            "folder away or remove it, then run again: its sequences are embedded anew"
        )
    folder = checkpoint_dir / f"shard_{rank}"
    if force_restart:
        clear(folder)
    ids, rows = read_finished(folder, logger)
    logger.info("%s sequences were finished before", f"{len(ids):,}")
    return ids, rows


def _load_and_filter_index(
    rank: int, world_size: int, index_path: Path, resumed_ids: Set[str], logger: logging.Logger
) -> list[int]:
    """The rows to compute, longest first, without those whose digest is in `resumed_ids`.

    Of a shard's index, places in it; of a whole index, every world_size-th row from `rank` on.
    Raises IndexFormatError where the index is damaged or another rank's.
    """
    rows, digests = read_assigned(index_path, rank, world_size)
    pending = [
        int(row)
        for row, digest in zip(rows, digests, strict=True)
        if digest.tobytes().hex() not in resumed_ids
    ]
    logger.info("%s of %s sequences are to compute", f"{len(pending):,}", f"{len(rows):,}")
    return pending


def _load_model(
    model_config: dict[str, Any], device: torch.device, logger: logging.Logger
) -> tuple[torch.nn.Module, Any]:
    """The model on `device`, as far as its rows are needed, and what turns residues (bytes) into
    token ids, (n + 2,) int64.

    `precision` in `model_config`, else in its `embedding`, is followed, and `auto` asks
    should_use_fp16; so is `layer` in its `embedding`, else the last is taken. Raises ModelError
    or DeviceError where that cannot be.
    """
    asked = model_config.get("precision") or model_config["embedding"]["precision"]
    precision = resolve_precision(asked, device, EnvConfig.from_environ(os.environ))
    path = Path(model_config["model"])
    described = read_prepared(path)
    layer = described.layer(model_config.get("embedding", {}).get("layer", "last"))
    model = load_prepared(path, layer, torch_dtype(precision)).to(device)
    told = (device, precision, model.attention.name)
    logger.info("the model is on %s in %s; attention: %s", *told)
    return model, load_tokenizer(described).encode


def _save_shard(
    rank: int,
    output_dir: Path,
    all_embeddings: list[Any],
    all_ids: list[str],
    resumed_ids: Set[str],
    resumed_embeddings: np.ndarray | None,
    logger: logging.Logger,
) -> Path:
    """Write `shard_{rank}.h5` into a checkpoint folder, in input order, by streaming.

    all_embeddings: a block (n, D) for each checkpoint; all_ids: its hex digests, one after the
    other. The folder's manifest and index say the rest. Raises ShardError for a missing row.
    """
    if twice := count_twice(output_dir):
        logger.warning("%s sequences were computed twice: another worker, too, did", f"{twice:,}")
    resumed = [] if resumed_embeddings is None else [resumed_embeddings]
    path = assemble_shard(output_dir, rank, [*resumed_ids, *all_ids], [*resumed, *all_embeddings])
    logger.info("%s sequences are in %s", f"{len(resumed_ids) + len(all_ids):,}", path)
    return path


def _report_error(
    rank: int,
    error: Exception,
    results_queue: Queue,  # type: ignore[type-arg]
    logger: logging.Logger,
) -> None:
    """Put what happened on the queue, small; the log has all of it."""
    status = {"rank": rank} | describe_error(error)
    if status["status"] == "interrupted":
        logger.info("interrupted: %s", error)
    else:
        logger.error("failed: %s", error, exc_info=error)
    results_queue.put(status)


@contextmanager
def _open_checkpoint_dir(
    config: dict[str, Any],
    output_dir: Path,
    rank: int,
    leave_if_asked: Callable[[], None],
    logger: logging.Logger,
) -> Iterator[tuple[Path, bool]]:
    """The folder of the `shard_{rank}` folders, and whether nobody else can be at work in ours.

    Without checkpointing, one that goes at the end.
    """
    if config["enable_checkpointing"]:
        base = config["checkpoint_dir"]
        name_other_folders(base, rank, logger)
        with lock_folder(base, leave_if_asked, logger) as alone:
            yield base, alone
        return
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir, prefix=".embedding-") as folder:
        yield Path(folder), True


def _open_trials(
    run: Run, folder: Path, index_path: Path, model_config: dict[str, Any]
) -> FailureTracker:
    """What is known of failures, the end of the last process among them.

    `crash` in `model_config` tells of that end, and `began` is called once it is written down.
    """
    trials = run.open_trials(folder, index_path)
    trials.record_crash(model_config.get("crash"))
    if began := model_config.get("began"):
        began()
    return trials


def _copy_from_store(run: Run, folder: Path, output_dir: Path, logger: logging.Logger) -> None:
    path = store_path(output_dir.parent / "store", run.recipe.fingerprint)
    count = copy_from_store(path, folder, run.shard.digests, run.recipe.fingerprint, logger)
    if count:
        logger.info("%s sequences are taken from %s", f"{count:,}", path)


def _count(
    run: Run,
    config: dict[str, Any],
    resumed_ids: Set[str],
    writer: CheckpointWriter,
    trials: FailureTracker,
) -> dict[str, Any]:
    """What a complete shard's status tells of its run."""
    return {
        "device": str(run.device),
        "num_sequences": len(resumed_ids) + len(writer.ids),
        "checkpointing_enabled": config["enable_checkpointing"],
        "resumed_sequences": len(resumed_ids),
        "computed": len(writer.ids),
        "reused": 0,
        "quarantined": len(trials.quarantined),
    }
