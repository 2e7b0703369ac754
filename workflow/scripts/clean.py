"""List the checkpoints that no shard needs any more, and how much they take; remove them if asked.

Such checkpoints are left by runs that did not end, with other settings, sequences or shards. If you
go back to those settings, their rows are used again.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from seqembed import command_line
from seqembed.checkpoints.unneeded import count_freed, list_unneeded, remove_unneeded


def main() -> int:
    parser = command_line.parser(__doc__)
    folder = "the folder with the datasets' results"
    parser.add_argument("results", type=Path, nargs="?", default=Path("results"), help=folder)
    parser.add_argument("--remove", action="store_true", help="remove what is listed")
    return command_line.run(clean, parser.parse_args())


def clean(arguments: argparse.Namespace, logger: logging.Logger) -> None:
    datasets = sorted(path for path in arguments.results.iterdir() if path.is_dir())
    folders = [folder for dataset in datasets for folder in list_unneeded(dataset)]
    for folder in folders:
        logger.info(f"{folder}: {count_freed([folder]) / 1e6:,.1f} MB")
    found = f"{len(folders):,} checkpoint folders, {count_freed(folders) / 1e6:,.1f} MB"
    if not arguments.remove:
        logger.info(f"{found}, are needed by no shard; --remove removes them")
        return
    for folder in folders:
        if not remove_unneeded(folder):
            logger.warning(f"{folder}: stays, because a worker is at work in it")
    logger.info(f"{found}, were needed by no shard")


if __name__ == "__main__":
    sys.exit(main())
