"""Index every sequence of a dataset's FASTA files, and check each of them."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from seqembed import command_line
from seqembed.fasta import find_fasta_files
from seqembed.index import write_index


def main() -> int:
    parser = command_line.parser(__doc__)
    parser.add_argument("--fasta", nargs="+", required=True, help="paths or glob patterns")
    parser.add_argument("--ids", choices=["header", "file:header"], required=True)
    parser.add_argument("--output", type=Path, required=True, help="index.parquet")
    return command_line.run(index, parser.parse_args())


def index(arguments: argparse.Namespace, logger: logging.Logger) -> None:
    files = find_fasta_files(arguments.fasta)
    count = write_index(files, arguments.output, arguments.ids)
    logger.info("%s sequences of %s files are in %s", f"{count:,}", len(files), arguments.output)


if __name__ == "__main__":
    sys.exit(main())
