"""Merge a dataset's shards into embeddings.h5, which has a row for each id, in input order."""

from __future__ import annotations

import argparse
import logging
import sys
from functools import partial
from pathlib import Path

from seqembed import command_line
from seqembed.checkpoints.merge import merge, remove_merged
from seqembed.checkpoints.unneeded import count_freed, list_unneeded
from seqembed.results.quarantine import write_quarantine


def main() -> int:
    parser = command_line.parser(__doc__)
    required = partial(parser.add_argument, required=True)
    required("--index", type=Path, help="index.parquet")
    required("--shards", type=Path, nargs="+", help="shard_*.h5")
    required("--output", type=Path, help="embeddings.h5")
    required("--quarantine", type=Path, help="quarantine.tsv")
    return command_line.run(merge_shards, parser.parse_args())


def merge_shards(arguments: argparse.Namespace, logger: logging.Logger) -> None:
    summary = merge(arguments.index, arguments.shards, arguments.output, logger)
    logger.info(
        f"{arguments.output}: {summary.sequences:,} sequences ({summary.distinct:,} distinct), "
        f"{summary.dimensions:,} values each, {summary.windowed:,} windowed, "
        f"{summary.truncated:,} truncated{'; reused from store/' if summary.relinked else ''}"
    )
    left_out = write_quarantine(arguments.index, arguments.quarantine, summary.quarantined)
    if left_out:
        logger.warning(f"{arguments.quarantine}: {left_out:,} sequences have no embedding")
    remove_merged(results := arguments.output.parent, summary.recipe)
    if unneeded := list_unneeded(results):
        size = f"{count_freed(unneeded) / 1e6:,.1f} MB"
        logger.info(f"{results}: checkpoints of other settings take {size}; clean.py removes them")


if __name__ == "__main__":
    sys.exit(main())
