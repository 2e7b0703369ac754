"""Split the distinct sequences of an index into shards, one for each rank."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from seqembed import command_line
from seqembed.checkpoints.find_sources import SourceFinder, list_reuse_files
from seqembed.errors import ConfigError, count_of
from seqembed.index.split import split_index
from seqembed.models.encoders.tokenization import limit_tokenizer_threads
from seqembed.models.prepared import load_tokenizer, read_prepared
from seqembed.results.reader import allow_open_shards
from seqembed.settings.lengths import resolve_policy
from seqembed.settings.request import Request


def main() -> int:
    parser = command_line.parser(__doc__)
    required = partial(parser.add_argument, required=True)
    required("--index", type=Path, help="index.parquet")
    required("--residues", type=Path, help="the file of residues that index.py wrote")
    required("--model", type=Path, help="the JSON file that prepare_model wrote")
    required("--world-size", type=int, help="how many shards to write")
    keys = ", ".join(Request.__dataclass_fields__)
    required("--settings", type=json.loads, help=f"what to compute, a JSON object: {keys}")
    required("--device", choices=("auto", "cuda", "cpu"), help="where embed_shard will compute")
    optional = partial(parser.add_argument, nargs="*", default=[])
    optional("--reuse", help="paths and globs of earlier embeddings.h5, whose rows may be taken")
    optional("--stores", type=Path, help="the stores of other datasets, whose rows may be taken")
    required("--output-dir", type=Path, help="the folder to write shard_{rank}.parquet to")
    arguments = parser.parse_args()
    dataset = arguments.output_dir.absolute().parent.name
    return command_line.run(split, arguments, label=f" {dataset}")


def read_request(settings: Any) -> Request:
    """Return what --settings asks for; raises ConfigError for a bad, missing or unknown key."""
    try:
        return Request(**settings)
    except TypeError as error:
        raise ConfigError(f"--settings: a key is missing or not known: {error}") from error


def split(arguments: argparse.Namespace, logger: logging.Logger) -> None:
    request = read_request(arguments.settings)
    model = read_prepared(arguments.model)
    # Refused here, before a GPU is used: a layer or a token that the model lacks, too many shards
    # to merge.
    model.layer(request.layer)
    model.check_pooling(request.pooling)
    allow_open_shards(arguments.world_size)
    limit_tokenizer_threads(os.environ, 1)
    ranks = range(arguments.world_size)
    paths = [arguments.output_dir / f"shard_{rank}.parquet" for rank in ranks]
    finder = SourceFinder(
        arguments.output_dir.parent,
        request,
        model,
        arguments.device,
        arguments.stores,
        list_reuse_files(arguments.reuse),
        logger,
    )
    sources = split_index(
        arguments.index,
        arguments.residues,
        paths,
        tokenizer=load_tokenizer(model),
        policy=resolve_policy(request.long_sequences, request.max_length, model),
        unit=model.facts.unit,
        find=finder.find,
        report=command_line.report_progress(logger),
    )
    found = f"{sources.distinct:,} distinct of {count_of(sources.count, 'sequence')}"
    logger.info(f"{arguments.output_dir}: {found}, in {count_of(len(paths), 'shard')}")
    for recipe, held in sources.count_held().items():
        left = sum(sources.left[recipe])
        files = "; ".join(f"{count:,} in {path}" for path, count in held.items())
        logger.info(f"with recipe {recipe[:12]}, {left:,} to compute: {files}")


if __name__ == "__main__":
    sys.exit(main())
