"""Merge the shards of a dataset into embeddings.h5, a row for every id in input order."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from seqembed import command_line
from seqembed.results.merge import merge
from seqembed.results.quarantine import write_quarantine


def main() -> int:
    parser = command_line.parser(__doc__)
    parser.add_argument("--index", type=Path, required=True, help="index.parquet")
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help="shard_*.h5")
    parser.add_argument("--output", type=Path, required=True, help="embeddings.h5")
    parser.add_argument("--quarantine", type=Path, required=True, help="quarantine.tsv")
    return command_line.run(merge_shards, parser.parse_args())


def merge_shards(arguments: argparse.Namespace, logger: logging.Logger) -> None:
    summary = merge(arguments.index, arguments.shards, arguments.output, logger)
    logger.info(
        "%s: %s sequences (%s distinct), %s values each, %s windowed, %s truncated%s",
        *(arguments.output, f"{summary.sequences:,}", f"{summary.distinct:,}"),
        *(f"{summary.dimensions:,}", f"{summary.windowed:,}", f"{summary.truncated:,}"),
        "; linked from the store" if summary.relinked else "",
    )
    left_out = write_quarantine(arguments.index, arguments.quarantine, summary.quarantined)
    if left_out:
        logger.warning("%s: %s sequences have no embedding", arguments.quarantine, f"{left_out:,}")


if __name__ == "__main__":
    sys.exit(main())
