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
from seqembed.machine.slurm_step import OWN_STEP, become_own_step
from seqembed.settings.request import read_settings
from seqembed.supervisor import Supervisor


def main() -> int:
    parser = command_line.parser(__doc__, needs_log=True)
    required = partial(parser.add_argument, required=True)
    required("--index", type=Path, help="shard_{rank}.parquet")
    required("--model", type=Path, help="the JSON file that prepare_model wrote")
    required("--rank", type=int, help="the number of the shard, from 0")
    required("--world-size", type=int, help="how many shards the dataset has")
    required("--output", type=Path, help="shard_{rank}.h5")
    settings = "what to compute, as JSON: the keys of `embedding` without invalid_residues"
    required("--settings", type=json.loads, help=settings)
    execution = (
        "how to compute, as JSON: device, token_budget, and the number of sequences "
        "(checkpoint_seq_threshold) or seconds (checkpoint_time_threshold) between checkpoints"
    )
    required("--execution", type=json.loads, help=execution)
    required("--threads", type=int, help="how many CPU threads to use")
    own_step = "in a Slurm job, run as a separate step, which gets the signals of Slurm"
    parser.add_argument(OWN_STEP, action="store_true", help=own_step)
    parser.add_argument("--parent", type=int, help="exit when the process with this pid exits")
    anew = "do not use earlier checkpoints"
    parser.add_argument("--force-restart", action="store_true", help=anew)
    arguments = parser.parse_args()
    dataset = arguments.output.absolute().parent.parent.name
    return command_line.run(embed_shard, arguments, label=f" {dataset} {arguments.rank}")


def embed_shard(arguments: argparse.Namespace, logger: logging.Logger) -> None:
    environment = EnvConfig.from_environ(os.environ)
    if environment.slurm_job:
        if arguments.own_step:
            become_own_step(os.environ, logger)
        logger.info("job %s of Slurm, on %s", environment.slurm_job, platform.node())
    model_config = _model_config(arguments)
    # Settings that are not valid are refused here, before a GPU is taken.
    read_settings(model_config)
    supervisor = Supervisor(logger, environment, arguments.parent)
    status = supervisor.run(
        arguments.rank,
        arguments.world_size,
        arguments.index,
        arguments.output.parent,
        model_config,
    )
    logger.info(
        f"{status['num_sequences']:,} sequences are in {status['shard_path']}: "
        f"{status['computed']:,} computed on {status['device']}, "
        f"{status['resumed_sequences']:,} finished before"
    )
    if status["quarantined"]:
        logger.warning(f"{status['quarantined']:,} sequences could not be embedded")


def _model_config(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the plain dict of settings that gpu_worker is called with."""
    return dict(arguments.execution) | {
        "model": str(arguments.model),
        "embedding": arguments.settings,
        "threads": arguments.threads,
        "log_path": str(arguments.log),
        "force_restart": arguments.force_restart,
    }


if __name__ == "__main__":
    sys.exit(main())
