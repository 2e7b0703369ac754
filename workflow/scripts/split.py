"""Split an index into shards of distinct sequences, one for each rank."""

from __future__ import annotations

import argparse
import logging
import sys
from functools import partial
from pathlib import Path

from seqembed import command_line
from seqembed.index import describe_rows, read_lengths_and_digests
from seqembed.models.prepare import read_prepared
from seqembed.recipe import refuse_long
from seqembed.split import split_index


def main() -> int:
    parser = command_line.parser(__doc__)
    parser.add_argument("--index", type=Path, required=True, help="index.parquet")
    parser.add_argument("--model", type=Path, required=True, help="what prepare_model wrote")
    parser.add_argument("--world-size", type=int, required=True, help="how many shards")
    parser.add_argument("--long-sequences", choices=["error", "truncate"], required=True)
    length = command_line.auto_or_int
    parser.add_argument("--max-length", type=length, required=True, help="residues, or auto")
    parser.add_argument("--output-dir", type=Path, required=True, help="gets shard_{rank}.parquet")
    return command_line.run(split, parser.parse_args())


def split(arguments: argparse.Namespace, logger: logging.Logger) -> None:
    # A sequence too long for what was asked is said now: no GPU has been asked for yet.
    limit = read_prepared(arguments.model).longest(arguments.max_length)
    lengths, _ = read_lengths_and_digests(arguments.index)
    describe = partial(describe_rows, arguments.index)
    refuse_long(arguments.long_sequences, limit, lengths, describe)
    ranks = range(arguments.world_size)
    paths = [arguments.output_dir / f"shard_{rank}.parquet" for rank in ranks]
    count = split_index(arguments.index, paths)
    place = arguments.output_dir
    logger.info("%s distinct sequences are in %s shards in %s", f"{count:,}", len(paths), place)


if __name__ == "__main__":
    sys.exit(main())
