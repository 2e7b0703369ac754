"""Split the distinct sequences of an index into shards, one for each rank."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import get_args

from seqembed import command_line
from seqembed.index.split import split_index
from seqembed.models.encoders.tokenization import limit_tokenizer_threads
from seqembed.models.prepared import load_tokenizer, read_prepared
from seqembed.results.reader import allow_open_shards
from seqembed.settings.lengths import resolve_policy
from seqembed.settings.request import AskedLongSequences, Pooling


def main() -> int:
    parser = command_line.parser(__doc__)
    required = partial(parser.add_argument, required=True)
    required("--index", type=Path, help="index.parquet")
    required("--residues", type=Path, help="the file of residues that index.py wrote")
    required("--model", type=Path, help="the JSON file that prepare_model wrote")
    required("--world-size", type=int, help="how many shards to write")
    longer = "what to do with sequences of more tokens than --max-length"
    required("--long-sequences", choices=get_args(AskedLongSequences), help=longer)
    required("--max-length", type=word_or_int, help="a number of tokens, or auto")
    required("--pooling", choices=get_args(Pooling), help="how token rows become one row")
    required("--layer", type=word_or_int, help="the number of a layer, or last")
    required("--output-dir", type=Path, help="the folder to write shard_{rank}.parquet to")
    return command_line.run(split, parser.parse_args())


def word_or_int(text: str) -> str | int:
    """Return an option's value: a word such as `auto`, or an int; ValueError for other text."""
    return text if text.isalpha() else int(text)


def split(arguments: argparse.Namespace, logger: logging.Logger) -> None:
    model = read_prepared(arguments.model)
    # Refused here, before a GPU is used: a layer or a token that the model lacks, too many shards
    # to merge.
    model.layer(arguments.layer)
    model.check_pooling(arguments.pooling)
    allow_open_shards(arguments.world_size)
    limit_tokenizer_threads(os.environ, 1)
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
    place = f"{len(paths)} shards in {arguments.output_dir}"
    logger.info(f"{count:,} distinct sequences are in {place}")


if __name__ == "__main__":
    sys.exit(main())
