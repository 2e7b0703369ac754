"""Check a model's files, convert them if needed, and describe them in a JSON file."""

from __future__ import annotations

import argparse
import logging
import sys
from functools import partial
from pathlib import Path

from seqembed import command_line
from seqembed.models.prepare import prepare_model


def main() -> int:
    parser = command_line.parser(__doc__)
    required = partial(parser.add_argument, required=True)
    required("--name", help="a known name, or a key of `models`")
    required("--source", help="a known name, a Hugging Face folder, or a .pt or .pth file")
    required("--output", type=Path, help="the JSON file to write")
    return command_line.run(prepare, parser.parse_args())


def prepare(arguments: argparse.Namespace, logger: logging.Logger) -> None:
    prepare_model(arguments.name, arguments.source, arguments.output, logger)
    logger.info(f"model {arguments.name} from {arguments.source} is ready")


if __name__ == "__main__":
    sys.exit(main())
