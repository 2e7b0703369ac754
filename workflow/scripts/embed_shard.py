"""Embed the sequences of one shard, on one GPU or on the CPU."""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
from functools import partial
from pathlib import Path
from typing import Any

from seqembed import command_line
from seqembed.environment import EnvConfig
from seqembed.errors import ConfigError
from seqembed.machine.slurm_step import OWN_STEP, become_own_step
from seqembed.settings.request import read_settings
from seqembed.supervisor import Supervisor


def main() -> int:
    parser = command_line.parser(__doc__, needs_log=True)
    require = partial(parser.add_argument, required=True)
    require("--index", type=Path, help="the shard's index, which split.py wrote")
    require("--model", type=Path, help="the model's JSON file, which prepare_model.py wrote")
    require("--rank", type=int, help="the shard's number, from 0")
    require("--world-size", type=int, help="how many shards the dataset has")
    require("--output", type=Path, help="the file to write: results/DATASET/shards/shard_RANK.h5")
    keys = "layer, pooling, per_residue, precision, storage, long_sequences, max_length"
    require("--settings", type=json_object, help=f"what to compute, a JSON object: {keys}")
    keys = (
        "device, token_budget, checkpoint_seq_threshold, checkpoint_time_threshold (seconds), "
        "reuse (paths and globs of earlier embeddings.h5), stores (folders of other datasets), "
        "speeds (the folder that gets a record of the worker's speed)"
    )
    require("--execution", type=json_object, help=f"how to compute, a JSON object: {keys}")
    require("--threads", type=int, help="how many CPU threads to use")
    own_step = "in a Slurm job, start this program again as a step of its own, which gets signals"
    parser.add_argument(OWN_STEP, action="store_true", help=own_step)
    parser.add_argument("--parent", type=int, help="the parent's pid; stop when the parent ends")
    restart = "remove the shard's checkpoint, and compute all rows again"
    parser.add_argument("--force-restart", action="store_true", help=restart)
    arguments = parser.parse_args()
    dataset = arguments.output.absolute().parent.parent.name
    return command_line.run(embed_shard, arguments, label=f" {dataset} {arguments.rank}")


def json_object(text: str) -> dict[str, Any]:
    """Return a JSON object as a dict; raises ValueError or TypeError for any other text."""
    return dict(**json.loads(text))


def embed_shard(arguments: argparse.Namespace, logger: logging.Logger) -> None:
    """Embed the shard that the options name, and log how many sequences were embedded.

    Raises ConfigError for an impossible option, DeviceError if there is no device to run on,
    WorkerError if the worker failed, InterruptedRun if a signal stopped the run.
    """
    rank, world_size = arguments.rank, arguments.world_size
    if not 0 <= rank < world_size:
        raise ConfigError(
            f"--rank {rank} --world-size {world_size}: the world size must be at least 1, and the "
            "rank from 0 to the world size minus 1; correct these options"
        )
    environment = EnvConfig.from_environ(os.environ)
    if environment.slurm_job:
        if arguments.own_step:
            become_own_step(os.environ, logger)
        logger.info("Slurm job %s on %s", environment.slurm_job, platform.node())
    model_config = arguments.execution | {
        "model": str(arguments.model),
        "embedding": arguments.settings,
        "threads": arguments.threads,
        "log_path": str(arguments.log),
        "force_restart": arguments.force_restart,
    }
    # Impossible settings are refused here, before a GPU is leased.
    read_settings(model_config)
    supervisor = Supervisor(logger, environment, arguments.parent)
    output_dir = arguments.output.parent
    status = supervisor.run(rank, world_size, arguments.index, output_dir, model_config)
    logger.info(
        f"{status['num_sequences']:,} sequences are in {status['shard_path']}: "
        f"{status['computed']:,} computed on {status['device']}, "
        f"{status['resumed_sequences']:,} finished before, {status['reused']:,} reused"
    )
    if status["quarantined"]:
        words = "%s sequences could not be embedded; after the merge, quarantine.tsv lists them"
        logger.warning(words, f"{status['quarantined']:,}")


if __name__ == "__main__":
    sys.exit(main())
