"""Embed the sequences of one shard, on one GPU or on the CPU."""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
from pathlib import Path
from typing import Any

from seqembed import command_line
from seqembed.environment import EnvConfig
from seqembed.machine.slurm_step import OWN_STEP, become_own_step
from seqembed.settings.request import read_settings
from seqembed.supervisor import Supervisor


def main() -> int:
    parser = command_line.parser(__doc__, needs_log=True)
    parser.add_argument("--index", type=Path, required=True, help="the shard's index")
    parser.add_argument("--model", type=Path, required=True, help="what prepare_model wrote")
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--world-size", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True, help="shard_{rank}.h5")
    settings = "what to compute, as JSON: the keys of `embedding` but invalid_residues"
    parser.add_argument("--settings", type=json.loads, required=True, help=settings)
    execution = (
        "how to compute it, as JSON: device; token_budget; checkpoint_seq_threshold (sequences) "
        "and checkpoint_time_threshold (seconds), after which a checkpoint is due"
    )
    parser.add_argument("--execution", type=json.loads, required=True, help=execution)
    parser.add_argument("--threads", type=int, required=True)
    own_step = "in a Slurm job, run as a step of its own"
    parser.add_argument(OWN_STEP, action="store_true", help=own_step)
    parser.add_argument("--parent", type=int, help="end when the process of this pid does")
    parser.add_argument("--force-restart", action="store_true", help="leave checkpoints unused")
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
    # What makes no sense is refused before a GPU is taken.
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
        "%s sequences are in %s: %s computed on %s, %s finished before",
        *(f"{status['num_sequences']:,}", status["shard_path"], f"{status['computed']:,}"),
        *(status["device"], f"{status['resumed_sequences']:,}"),
    )
    if status["quarantined"]:
        logger.warning("%s sequences could not be embedded", f"{status['quarantined']:,}")


def _model_config(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the worker is given, as a plain dict."""
    return dict(arguments.execution) | {
        "model": str(arguments.model),
        "embedding": arguments.settings,
        "threads": arguments.threads,
        "log_path": str(arguments.log),
        "force_restart": arguments.force_restart,
    }


if __name__ == "__main__":
    sys.exit(main())
