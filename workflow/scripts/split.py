"""Split an index into shards of distinct sequences, one for each rank."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import get_args

from seqembed import command_line
from seqembed.index.split import split_index
from seqembed.models.prepared import load_tokenizer, read_prepared
from seqembed.results.reader import allow_open_shards
from seqembed.settings.lengths import resolve_policy
from seqembed.settings.request import LongSequences


def main() -> int:
    parser = command_line.parser(__doc__)
    parser.add_argument("--index", type=Path, required=True, help="index.parquet")
    parser.add_argument("--residues", type=Path, required=True, help="what index wrote beside it")
    parser.add_argument("--model", type=Path, required=True, help="what prepare_model wrote")
    parser.add_argument("--world-size", type=int, required=True, help="how many shards")
    policies = ["auto", *get_args(LongSequences)]
    parser.add_argument("--long-sequences", choices=policies, required=True)
    length = command_line.word_or_int
    parser.add_argument("--max-length", type=length, required=True, help="tokens, or auto")
    parser.add_argument("--layer", type=length, required=True, help="a number, or last")
    parser.add_argument("--output-dir", type=Path, required=True, help="gets shard_{rank}.parquet")
    return command_line.run(split, parser.parse_args())


def split(arguments: argparse.Namespace, logger: logging.Logger) -> None:
    model = read_prepared(arguments.model)
    # What cannot be computed, or merged, is said here: no GPU has been asked for yet.
    model.layer(arguments.layer)
    allow_open_shards(arguments.world_size)
    ranks = range(arguments.world_size)
    paths = [arguments.output_dir / f"shard_{rank}.parquet" for rank in ranks]
    count = split_index(
        arguments.index,
        arguments.residues,
        paths,
        tokenizer=load_tokenizer(model),
        policy=resolve_policy(arguments.long_sequences, arguments.max_length, model),
        unit="residues" if model.facts.molecule == "protein" else "tokens",
    )
    place = arguments.output_dir
    logger.info("%s distinct sequences are in %s shards in %s", f"{count:,}", len(paths), place)


if __name__ == "__main__":
    sys.exit(main())
