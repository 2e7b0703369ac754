"""List the checkpoints that no shard needs any more, and how much they take; remove them if asked.

Such checkpoints are left by runs that did not end, with other settings, sequences or shards: beside
the result of a dataset, all of its checkpoints are. If you go back to those settings, their rows
are used again.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from seqembed import command_line
from seqembed.checkpoints.unneeded import count_freed, list_unneeded, remove_unneeded
from seqembed.errors import ConfigError, IndexFormatError, count_of
from seqembed.machine.words import format_bytes


def main() -> int:
    parser = command_line.parser(__doc__)
    folder = "the folder with the datasets' results"
    parser.add_argument("results", type=Path, nargs="?", default=Path("results"), help=folder)
    parser.add_argument("--remove", action="store_true", help="remove what is listed")
    return command_line.run(clean, parser.parse_args())


def clean(arguments: argparse.Namespace, logger: logging.Logger) -> None:
    folders = list_all_unneeded(arguments.results, logger)
    for folder in folders:
        logger.info(f"{folder}: {format_bytes(count_freed([folder]))}")
    if arguments.remove:
        remove_all(folders, logger)
        return
    size = format_bytes(count_freed(folders))
    found = f"needed by no shard: {count_of(len(folders), 'checkpoint folder')}, {size}"
    advice = "--remove removes them, with what they hold of unfinished work with other settings"
    logger.info(f"{found}; {advice}" if folders else "no checkpoint folder is listed")


def list_all_unneeded(results: Path, logger: logging.Logger) -> list[Path]:
    """Return the folders that no shard of a dataset in `results` needs.

    A warning names each dataset whose list cannot be made. Raises ConfigError if `results` is not
    a folder.
    """
    if not results.is_dir():
        raise ConfigError(f"{results}: is not a folder; give the folder with the datasets' results")
    folders: list[Path] = []
    for dataset in sorted(path for path in results.iterdir() if path.is_dir()):
        try:
            folders += list_unneeded(dataset)
        except IndexFormatError as error:
            logger.warning(f"{dataset}: nothing is listed, all checkpoints may be needed: {error}")
    return folders


def remove_all(folders: Sequence[Path], logger: logging.Logger) -> None:
    """Remove the folders, and log which of them stay, and how much room was freed."""
    count, freed = 0, 0
    for folder in folders:
        # Counted one by one: a file in two folders is freed with the second one.
        size = count_freed([folder])
        if remove_unneeded(folder):
            count, freed = count + 1, freed + size
        else:
            logger.warning(f"{folder}: stays: a worker is at work in it, or it cannot be locked")
    logger.info(f"removed: {count_of(count, 'checkpoint folder')}, {format_bytes(freed)}")


if __name__ == "__main__":
    sys.exit(main())
