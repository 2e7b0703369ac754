"""Check a model's files, convert them where needed, and write down what they are."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from seqembed import command_line
from seqembed.models.prepare import prepare_model


def main() -> int:
    parser = command_line.parser(__doc__)
    parser.add_argument("--name", required=True, help="the model's key in `models`")
    parser.add_argument(
        "--source", required=True, help="a known name, a Hugging Face folder, or a fair-esm .pt"
    )
    parser.add_argument("--output", type=Path, required=True, help="the .json to write")
    return command_line.run(prepare, parser.parse_args())


def prepare(arguments: argparse.Namespace, logger: logging.Logger) -> None:
    prepare_model(arguments.name, arguments.source, arguments.output, logger)
    logger.info("model %s of %s is ready", arguments.name, arguments.source)


if __name__ == "__main__":
    sys.exit(main())
