"""Index every sequence of a dataset's FASTA files, and check each of them."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import get_args

from seqembed import command_line
from seqembed.fasta import find_fasta_files
from seqembed.index import write_index
from seqembed.models.prepared import load_tokenizer, read_prepared
from seqembed.residues import InvalidResidues, ResidueCheck
from seqembed.sequence_ids import IdStyle


def main() -> int:
    parser = command_line.parser(__doc__)
    parser.add_argument("--fasta", nargs="+", required=True, help="paths or glob patterns")
    parser.add_argument("--ids", choices=get_args(IdStyle), required=True)
    parser.add_argument("--model", type=Path, required=True, help="what prepare_model wrote")
    invalid = get_args(InvalidResidues)
    parser.add_argument("--invalid-residues", choices=invalid, required=True)
    parser.add_argument("--gaps", choices=("error", "remove", "keep"), default="error")
    parser.add_argument("--suspicious", choices=("error", "allow"), default="error")
    parser.add_argument("--output", type=Path, required=True, help="index.parquet")
    return command_line.run(index, parser.parse_args())


def index(arguments: argparse.Namespace, logger: logging.Logger) -> None:
    model = read_prepared(arguments.model)
    letters, molecule = load_tokenizer(model).letters, model.facts.molecule
    check = ResidueCheck(letters, molecule, arguments.invalid_residues)
    files = find_fasta_files(arguments.fasta)
    count = write_index(files, arguments.output, arguments.ids, check)
    if summary := check.summary():
        logger.warning("%s", summary)
    amounts = f"{count:,} sequences of {len(files):,} files"
    logger.info("%s are in %s", amounts, arguments.output)


if __name__ == "__main__":
    sys.exit(main())
