"""Make the report of a result, embeddings.h5: an HTML page, and its figures as files."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from functools import partial
from pathlib import Path

from seqembed import command_line
from seqembed.report.findings import Sources
from seqembed.report.report import make_report


def main() -> int:
    parser = command_line.parser(__doc__)
    required = partial(parser.add_argument, required=True)
    required("--result", type=Path, help="embeddings.h5")
    required("--index", type=Path, help="index.parquet")
    required("--quarantine", type=Path, help="quarantine.tsv")
    required("--models", type=Path, help="the folder resources/models")
    required("--settings", type=json.loads, help="`embedding` as it was asked for, as JSON")
    required("--output", type=Path, help="report.html")
    named = "a figure's file: phases, speeds, lengths, norms, neighbours or map, .svg or .png"
    parser.add_argument("--figures", type=Path, nargs="*", default=[], help=named)
    table = "a table with a column `id`, TSV or CSV, whose columns colour the map"
    parser.add_argument("--annotations", metavar="TABLE", help=table)
    arguments = parser.parse_args()
    dataset = arguments.result.absolute().parent.name
    return command_line.run(report, arguments, label=f" {dataset}")


def report(arguments: argparse.Namespace, logger: logging.Logger) -> None:
    sources = Sources(
        result=arguments.result,
        index=arguments.index,
        quarantine=arguments.quarantine,
        models=arguments.models,
        annotations=arguments.annotations,
    )
    progress = command_line.report_progress(logger)
    make_report(sources, arguments.output, arguments.figures, arguments.settings, logger, progress)


if __name__ == "__main__":
    sys.exit(main())
