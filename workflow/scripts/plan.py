"""Print what a run will compute, and what disk, memory and time it takes; nothing is embedded."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any, get_args

from seqembed import command_line
from seqembed.checks.residues import Gaps, Suspicious
from seqembed.environment import EnvConfig
from seqembed.index.sequence_ids import IdStyle
from seqembed.look.asked import Surroundings, read_dataset
from seqembed.look.disk import free_bytes
from seqembed.look.page import write_end, write_page
from seqembed.look.plan_file import PLAN, write_plan
from seqembed.look.text import choose_blocks
from seqembed.look.unprepared import Reading, plan_any


def main() -> int:
    parser = command_line.parser(__doc__)
    required = partial(parser.add_argument, required=True)
    keys = "name, model, source, fasta, shards, request, invalid_residues, reuse, threads, indexed"
    required("--datasets", type=json.loads, help=f"a JSON list of objects: {keys}")
    keys = "device, token_budget, checkpoint_sequences, cores, gpu, jobs, cluster"
    required("--execution", type=json.loads, help=f"how to compute, a JSON object: {keys}")
    required("--ids", choices=get_args(IdStyle), help="which part of a header becomes the id")
    required("--gaps", choices=get_args(Gaps), help="what to do with the gaps of an alignment")
    strange = "what to do with text that does not look like residues"
    required("--suspicious", choices=get_args(Suspicious), help=strange)
    required("--results", type=Path, help="the folder results")
    required("--models", type=Path, help="the folder resources/models")
    required("--speeds", type=Path, help="the folder with the records of workers' speed")
    return command_line.run(plan, parser.parse_args())


def plan(arguments: argparse.Namespace, logger: logging.Logger) -> None:
    """Print the plan of each dataset, and write it to results/{dataset}/plan.json."""
    execution: dict[str, Any] = dict(arguments.execution)
    around = Surroundings(
        results=arguments.results,
        models=arguments.models,
        speeds=arguments.speeds,
        asked=execution.pop("device"),
        environment=EnvConfig.from_environ(os.environ),
        **execution,
    )
    reading = Reading(arguments.ids, arguments.gaps, arguments.suspicious)
    datasets = [read_dataset(content) for content in arguments.datasets]
    blocks, free, sums = choose_blocks(sys.stdout.encoding), free_bytes(around.results), []
    for dataset in datasets:
        found = plan_any(dataset, datasets, around, reading, logger)
        write_plan(found, around.results / dataset.name / PLAN)
        print("\n".join([*write_page(found, blocks, free), ""]), flush=True)
        # Not the plan itself: its arrays have an element for each sequence.
        sums.append((found.disk.more, found.seconds))
    for line in write_end(sums, around.results, free):
        print(line)


if __name__ == "__main__":
    sys.exit(main())
