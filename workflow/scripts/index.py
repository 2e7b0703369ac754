"""Index every sequence of a dataset's FASTA files, and check each of them."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import get_args

from seqembed import command_line
from seqembed.checks.residues import Gaps, InvalidResidues, ResidueCheck, Suspicious
from seqembed.fasta.files import find_fasta_files
from seqembed.index.sequence_ids import IdStyle
from seqembed.index.writer import write_index
from seqembed.models.prepared import load_tokenizer, read_prepared


def main() -> int:
    parser = command_line.parser(__doc__)
    parser.add_argument("--fasta", nargs="+", required=True, help="paths or glob patterns")
    parser.add_argument("--ids", choices=get_args(IdStyle), required=True)
    parser.add_argument("--model", type=Path, required=True, help="what prepare_model wrote")
    invalid = get_args(InvalidResidues)
    parser.add_argument("--invalid-residues", choices=invalid, required=True)
    parser.add_argument("--gaps", choices=get_args(Gaps), required=True)
    parser.add_argument("--suspicious", choices=get_args(Suspicious), required=True)
    parser.add_argument("--output", type=Path, required=True, help="index.parquet")
    parser.add_argument("--residues", type=Path, required=True, help="gets all residues, for split")
    return command_line.run(index, parser.parse_args())


def index(arguments: argparse.Namespace, logger: logging.Logger) -> None:
    model = read_prepared(arguments.model)
    letters, molecule = load_tokenizer(model).letters, model.facts.molecule
    check = ResidueCheck(
        letters,
        molecule,
        arguments.invalid_residues,
        gaps=arguments.gaps,
        suspicious=arguments.suspicious,
    )
    files = find_fasta_files(arguments.fasta)
    count = write_index(files, arguments.output, arguments.residues, arguments.ids, check)
    if summary := check.summary():
        logger.warning("%s", summary)
    amounts = f"{count:,} sequences of {len(files):,} files"
    logger.info("%s are in %s", amounts, arguments.output)


if __name__ == "__main__":
    sys.exit(main())
