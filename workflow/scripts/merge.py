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
from seqembed.errors import SeqembedError, count_of
from seqembed.machine.words import format_bytes
from seqembed.report.current import remove_outdated_report
from seqembed.results.quarantine import write_quarantine


def main() -> int:
    parser = command_line.parser(__doc__)
    required = partial(parser.add_argument, required=True)
    required("--index", type=Path, help="index.parquet")
    required("--shards", type=Path, nargs="+", help="shard_*.h5")
    required("--output", type=Path, help="embeddings.h5")
    required("--quarantine", type=Path, help="quarantine.tsv")
    arguments = parser.parse_args()
    dataset = arguments.output.absolute().parent.name
    return command_line.run(merge_shards, arguments, label=f" {dataset}")


def merge_shards(arguments: argparse.Namespace, logger: logging.Logger) -> None:
    report = command_line.report_progress(logger)
    summary = merge(arguments.index, arguments.shards, arguments.output, logger, report)
    logger.info(
        f"{arguments.output}: {summary.sequences:,} sequences ({summary.distinct:,} distinct), "
        f"{summary.dimensions:,} values each, {summary.windowed:,} windowed, "
        f"{summary.truncated:,} truncated{'; reused from store/' if summary.relinked else ''}"
    )
    left_out = write_quarantine(arguments.index, arguments.quarantine, summary.quarantined)
    if left_out:
        logger.warning(
            f"{arguments.quarantine}: {count_of(left_out, 'sequence')} without an embedding"
        )
    tidy_up(arguments.output.parent, summary.recipe, logger)


def tidy_up(results: Path, recipe_fingerprint: str, logger: logging.Logger) -> None:
    """Remove what the result replaces, and log how much room other checkpoints take.

    An error becomes a warning: if the merge failed now, Snakemake would delete the result.
    """
    try:
        if remove_outdated_report(results):
            logger.info(
                f"{results}: removed the report of an earlier result; `report` makes it anew"
            )
        remove_merged(results, recipe_fingerprint)
        if unneeded := list_unneeded(results):
            size = format_bytes(count_freed(unneeded))
            logger.info(
                f"{results}: checkpoints that no shard needs take {size}; clean.py lists them"
            )
    except (SeqembedError, OSError) as error:
        words = (
            "the result is complete, but not all shards, checkpoints and reports could be removed"
        )
        logger.warning(f"{results}: {words}: {error}")


if __name__ == "__main__":
    sys.exit(main())
