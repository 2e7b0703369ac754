"""Export a result, embeddings.h5, in the layout of another program."""

from __future__ import annotations

import argparse
import logging
import sys
from functools import partial
from pathlib import Path

from seqembed import command_line
from seqembed.export.export import export
from seqembed.results.reader import STORAGES


def main() -> int:
    parser = command_line.parser(__doc__)
    required = partial(parser.add_argument, required=True)
    required("--result", type=Path, help="embeddings.h5")
    names = "embeddings.parquet, uniprot.h5, uniprot_per_residue.h5, embeddings.npy (with ids.txt)"
    required("--output", type=Path, help=f"the file to write: {names} or embeddings.h5ad")
    parser.add_argument("--dtype", choices=STORAGES, default=STORAGES[0], help="(%(default)s)")
    parser.add_argument("--index", type=Path, help="index.parquet, for embeddings.h5ad")
    table = "a table with a column `id`, TSV or CSV, whose columns embeddings.h5ad gets"
    parser.add_argument("--annotations", metavar="TABLE", help=table)
    arguments = parser.parse_args()
    dataset = arguments.result.absolute().parent.name
    return command_line.run(export_result, arguments, label=f" {dataset}/{arguments.output.name}")


def export_result(arguments: argparse.Namespace, logger: logging.Logger) -> None:
    options = {"index": arguments.index, "annotations": arguments.annotations}
    report = command_line.report_progress(logger)
    export(arguments.result, arguments.output, arguments.dtype, logger, report=report, **options)


if __name__ == "__main__":
    sys.exit(main())
