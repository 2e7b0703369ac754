"""Embed the sequences of one shard, on one GPU or on the CPU."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from seqembed import command_line
from seqembed.environment import EnvConfig
from seqembed.machine.processes import OWN_STEP, become_own_step
from seqembed.settings.lengths import LongSequences
from seqembed.settings.request import Pooling, Precision, Request, Storage
from seqembed.supervisor import Supervisor


def main() -> int:
    parser = command_line.parser(__doc__, needs_log=True)
    parser.add_argument("--index", type=Path, required=True, help="the shard's index")
    parser.add_argument("--model", type=Path, required=True, help="what prepare_model wrote")
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--world-size", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True, help="shard_{rank}.h5")
    _add_what(parser)
    _add_how(parser)
    arguments = parser.parse_args()
    dataset = arguments.output.absolute().parent.parent.name
    return command_line.run(embed_shard, arguments, label=f" {dataset} {arguments.rank}")


def _add_what(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is computed")
    what.add_argument(
        "--layer", type=command_line.word_or_int, required=True, help="a number, or last"
    )
    what.add_argument("--pooling", choices=get_args(Pooling), required=True)
    what.add_argument("--per-residue", action=argparse.BooleanOptionalAction, required=True)
    what.add_argument("--precision", choices=["auto", *get_args(Precision)], required=True)
    what.add_argument("--storage", choices=get_args(Storage), required=True)
    what.add_argument("--long-sequences", choices=["auto", *get_args(LongSequences)], required=True)
    what.add_argument(
        "--max-length", type=command_line.word_or_int, required=True, help="tokens, or auto"
    )


def _add_how(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how it is computed")
    how.add_argument("--device", choices=["auto", "cuda", "cpu"], required=True)
    how.add_argument(
        "--token-budget", type=command_line.word_or_int, required=True, help="tokens a batch"
    )
    how.add_argument("--checkpoint-sequences", type=int, required=True)
    how.add_argument("--checkpoint-seconds", type=float, required=True)
    how.add_argument("--threads", type=int, required=True)
    how.add_argument(OWN_STEP, action="store_true", help="in a Slurm job, run as a step of its own")
    how.add_argument("--parent", type=int, help="end when the process of this pid does")
    how.add_argument("--force-restart", action="store_true", help="leave checkpoints unused")


def embed_shard(arguments: argparse.Namespace, logger: logging.Logger) -> None:
    environment = EnvConfig.from_environ(os.environ)
    if environment.slurm_job:
        if arguments.own_step:
            become_own_step(os.environ, logger)
        logger.info("job %s of Slurm, on %s", environment.slurm_job, platform.node())
    supervisor = Supervisor(logger, environment, arguments.parent)
    status = supervisor.run(
        arguments.rank,
        arguments.world_size,
        arguments.index,
        arguments.output.parent,
        _model_config(arguments),
    )
    logger.info(
        "%s sequences are in %s: %s computed on %s, %s finished before",
        *(f"{status['num_sequences']:,}", status["shard_path"], f"{status['computed']:,}"),
        *(status["device"], f"{status['resumed_sequences']:,}"),
    )
    if status["quarantined"]:
        logger.warning("%s sequences could not be embedded", f"{status['quarantined']:,}")


def _model_config(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "model": str(arguments.model),
        "embedding": {field.name: getattr(arguments, field.name) for field in fields(Request)},
        "device": arguments.device,
        "token_budget": arguments.token_budget,
        "checkpoint_seq_threshold": arguments.checkpoint_sequences,
        "checkpoint_time_threshold": arguments.checkpoint_seconds,
        "threads": arguments.threads,
        "log_path": str(arguments.log),
        "force_restart": arguments.force_restart,
    }


if __name__ == "__main__":
    sys.exit(main())
