"""The worker: embeds one shard on one device.

`gpu_worker` calls the steps in order. The ids that the steps take and return are hex digests of
sequences, not the names in the FASTA files: a checkpoint stays valid if a name changes.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Set
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seqembed.checkpoints.checkpoint import clear, open_checkpoint, read_finished
from seqembed.checkpoints.finished_shard import assemble_shard, count_duplicate_rows
from seqembed.checkpoints.manifest_and_failures import (
    MANIFEST,
    CheckpointManifest,
    read_manifest,
    write_manifest,
)
from seqembed.environment import EnvConfig
from seqembed.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    CheckpointError,
    ConfigError,
    InterruptedRun,
    OldFormatError,
    explain,
)
from seqembed.index.reader import check_split, read_assigned
from seqembed.kernels.names import PLAIN
from seqembed.machine.signals import StopFlag
from seqembed.models.load import load_prepared
from seqembed.models.prepared import load_tokenizer, read_prepared
from seqembed.settings.precision import DTYPES, resolve_precision
from seqembed.storage.digests import to_hex
from seqembed.storage.publish import set_aside
from seqembed.worker.decisions import open_run
from seqembed.worker.end_status import describe_error
from seqembed.worker.outlets import open_outlets
from seqembed.worker.progress import Progress, measure_work
from seqembed.worker.speed import record_speed
from seqembed.worker.success import describe_success
from seqembed.worker_logging import setup_worker_logging

# The setting with which rows that are not finite are computed again.
FP32 = {"precision": "fp32", "kernels": PLAIN}


def gpu_worker(
    rank: int,
    world_size: int,
    results_queue: Queue,  # type: ignore[type-arg]  # Queue cannot be subscripted
    index_path: Path,
    output_dir: Path,
    model_config: dict[str, Any],
) -> None:
    """Embed the shard of `rank` into `output_dir/shard_{rank}.h5`; put one status on the queue.

    index_path: the shard's index. model_config: the settings of `execution`; `model`, the path of
    {model}.json; `embedding`, a dict of its settings; `threads`; `log_path`; from a supervisor also
    `crash` and `began` (see Run.open_tracker). The status is a dict with `rank`, `status`
    ("complete", "interrupted", "failed" or "numerical_instability"), and counts or the error.

    Call this function in a process of its own, whose CUDA_VISIBLE_DEVICES names the GPU to use.
    After SIGTERM the worker finishes the batches that it has begun, writes checkpoints, and exits
    with code 143. After an error it exits with code 1, and finished rows stay in the checkpoint.
    """
    sigterm = StopFlag()
    logger = setup_worker_logging(rank, Path(model_config["log_path"]))
    logger.info("the worker has imported PyTorch %s", torch.__version__)
    try:
        run = open_run(index_path, output_dir, model_config, logger)
        sigterm.leave_if_asked()
        model_config = model_config | run.resolved
        config = _extract_checkpoint_config(model_config, output_dir)
        opened = open_checkpoint(config, output_dir, rank, sigterm.leave_if_asked, logger)
        with opened as checkpoint, open_outlets(run, checkpoint, model_config) as outlets:
            base, restart = checkpoint.base, config["force_restart"]
            keeps = config["enable_checkpointing"] and not restart
            if keeps:
                checkpoint.join_files()
            earlier = _load_checkpoint_manifest(rank, keeps, base, logger)
            ids, resumed_rows = _resume_from_existing_checkpoints(rank, base, restart, logger)
            index = checkpoint.link_index(index_path, fingerprint := run.shard.fingerprint)
            checkpoint.remove_leftovers()
            taker = run.open_taker(checkpoint.folder, ids)
            if keeps:
                taker.take(index_path, output_dir.parent, model_config)
                check_split(index_path, fingerprint)
            tracker = run.open_tracker(checkpoint.folder, index, model_config)
            settled = {*ids, *tracker.known.quarantined, *taker.ids()}
            rows = _load_and_filter_index(rank, world_size, index, settled, logger)
            manifest = run.manifest(earlier, taker.device_names)
            write_manifest(checkpoint.folder, manifest)
            writer = run.open_writer(checkpoint.folder, config)
            if rows:
                sigterm.leave_if_asked()
                load = run.start_loading(partial(_load_model, model_config, run.device, logger))
                load_fp32 = partial(_load_model, model_config | FP32, run.device, logger)
                convert = load_tokenizer(run.model).encode_all
                batches, *sizes = run.load_batches(index, rows, manifest, convert, tracker)
                work = measure_work(run, len(ids) + taker.count, *sizes)
                progress = Progress(logger, work, writer, tracker, outlets)
                model, _ = load()
                runner = run.open_runner(model, tracker, load_fp32, manifest, len(batches))
                progress.begin()
                try:
                    for batch in runner.run(writer.make_room(batches), sigterm.asked):
                        progress.advance(writer.add(batch), batch.tokens, batch.retried)
                        # The next batch may crash the process, or a kill may follow the signal.
                        if tracker.retrying or sigterm.asked():
                            writer.write()
                    sigterm.leave_if_asked()
                finally:
                    writer.close()
                    progress.end()
                tracker.finish()
                progress.finish()
                record_speed(run, rows, progress, output_dir, model_config)
            saved = _save_shard(
                rank, checkpoint.folder, writer.arrays, writer.ids, ids, resumed_rows, logger
            )
            shard_path = checkpoint.publish(saved, index_path, output_dir, fingerprint)
        failed, computed = len(tracker.known.quarantined), writer.computed
        status = describe_success(rank, shard_path, len(ids), taker, failed, computed)
        status["checkpointing_enabled"] = config["enable_checkpointing"]
        results_queue.put(status | {"device": str(run.device)})
    except Exception as error:  # noqa: BLE001 (the process ends here: report every error)
        _report_error(rank, error, results_queue, logger)
        sys.exit(EXIT_INTERRUPTED if isinstance(error, InterruptedRun) else EXIT_FAILED)
    finally:
        # If the process exited now, a status in the queue's buffer would be lost.
        results_queue.close()
        results_queue.join_thread()


def _extract_checkpoint_config(model_config: dict[str, Any], output_dir: Path) -> dict[str, Any]:
    """Return where checkpoints are, and after how many sequences or seconds one is due.

    `checkpoint_dir` is the folder `checkpoint_key` in `checkpoint_base_dir`, which by default is
    `checkpoints/` beside `output_dir`. Raises ConfigError if a threshold is missing.
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
        raise ConfigError(f"model_config lacks the key {error}; add it") from error


def _load_checkpoint_manifest(
    rank: int, enable_checkpointing: bool, checkpoint_base_dir: Path, logger: logging.Logger
) -> CheckpointManifest | None:
    """Return the manifest that an earlier run left in `checkpoint_base_dir/shard_{rank}`.

    Return None if there is no manifest, if `enable_checkpointing` is False, or if the manifest is
    damaged. A damaged manifest is renamed with a warning, and its token budget is not used again.
    """
    if not enable_checkpointing:
        return None
    folder = checkpoint_base_dir / f"shard_{rank}"
    try:
        return read_manifest(folder)
    except CheckpointError as error:
        words = "%s: damaged manifest (%r), set aside as %s; a new manifest is written"
        path = folder / MANIFEST
        logger.warning(words, path, error.__cause__, set_aside(path).name)
        return None


def _resume_from_existing_checkpoints(
    rank: int, checkpoint_dir: Path, force_restart: bool, logger: logging.Logger
) -> tuple[Set[str], np.ndarray | None]:
    """Return the hex digests of the finished sequences, in an ordered set, and their rows.

    The rows are an (n, D) array on disk, float32 or float16, or None if there are none; row i
    belongs to the i-th digest. checkpoint_dir: holds the folder `shard_{rank}`. force_restart:
    clear that folder first. Raises RuntimeError if `checkpoint_dir` is of an older program.
    """
    if any(checkpoint_dir.glob("*.done")) and not any(checkpoint_dir.glob("shard_*")):
        raise OldFormatError(
            f"{checkpoint_dir}: holds checkpoints of an older program (*.done files), which this "
            "program cannot read; move the folder away or remove it, then run again"
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
    """Return the rank's rows without those whose hex digest is in `resumed_ids`, to be computed.

    Of a shard's index, all rows are the rank's; of a dataset's, every `world_size`-th row from row
    `rank` on, longest first. Raises IndexFormatError if the index is damaged or another rank's.
    """
    rows, digests = read_assigned(index_path, rank, world_size)
    pairs = zip(rows.tolist(), to_hex(digests), strict=True)
    pending = [row for row, digest in pairs if digest not in resumed_ids]
    logger.info("%s of %s sequences are to be computed", f"{len(pending):,}", f"{len(rows):,}")
    return pending


def _load_model(
    model_config: dict[str, Any], device: torch.device, logger: logging.Logger
) -> tuple[torch.nn.Module, Any]:
    """Return the model on `device`, built up to the layer set in `embedding`, and its tokenizer.

    The tokenizer turns a list of sequences (bytes) into a list of token ids, each (n,) int64.
    If `model_config` has no `precision` of its own, that of its `embedding` is used; "auto" is what
    the model's authors use on a GPU, fp16 only if should_use_fp16() allows it, else fp32. Without
    `kernels`, the model takes the plain steps. Raises ModelError for missing or damaged files,
    DeviceError if the device cannot compute in the precision.
    """
    asked = model_config.get("precision") or model_config["embedding"]["precision"]
    path = Path(model_config["model"])
    described, environment = read_prepared(path), EnvConfig.from_environ(os.environ)
    precision = resolve_precision(asked, device, environment, described.facts.half)
    layer = described.layer(model_config.get("embedding", {}).get("layer", "last"))
    model = load_prepared(path, layer, DTYPES[precision], device)
    model.kernels = model_config.get("kernels", PLAIN)
    logger.info("the model is on %s in %s", device, precision)
    return model, load_tokenizer(described).encode_all


def _save_shard(
    rank: int,
    output_dir: Path,
    all_embeddings: list[Any],
    all_ids: list[str],
    resumed_ids: Set[str],
    resumed_embeddings: np.ndarray | None,
    logger: logging.Logger,
) -> Path:
    """Write `shard_{rank}.h5` in the checkpoint folder `output_dir`; return the file's path.

    all_embeddings: the (n, D) rows of each block of this run. all_ids: the hex digests of these
    rows, in order. resumed_ids: the hex digests of earlier runs' rows. resumed_embeddings: those
    rows, None if there are none. Rows are written in input order, and no array is read whole.
    Raises ShardError if a sequence has no row and is not quarantined.
    """
    if twice := count_duplicate_rows(output_dir):
        logger.warning(
            "%s sequences were computed twice: another worker computed them, too", f"{twice:,}"
        )
    resumed = [] if resumed_embeddings is None else [resumed_embeddings]
    path = assemble_shard(output_dir, rank, [*resumed_ids, *all_ids], [*resumed, *all_embeddings])
    logger.info("the rows of %s sequences are in %s", f"{len(resumed_ids) + len(all_ids):,}", path)
    return path


def _report_error(
    rank: int,
    error: Exception,
    results_queue: Queue,  # type: ignore[type-arg]
    logger: logging.Logger,
) -> None:
    """Put a status that describes `error` on the queue; log the traceback if `error` is a bug.

    The supervisor logs the message, so that the log has it once and in its last line.
    """
    status = {"rank": rank} | describe_error(error)
    if status["status"] == "interrupted":
        logger.info("interrupted")
    elif explain(error) or status["error"] == "cuda_oom":
        logger.info("the worker ends: %s", type(error).__name__)
    else:
        logger.error("the worker failed", exc_info=error)
    results_queue.put(status)
