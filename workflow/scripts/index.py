"""Check every record of a dataset's FASTA files, and write the index of all records."""

from __future__ import annotations

import argparse
import logging
import sys
from functools import partial
from pathlib import Path
from typing import get_args

from seqembed import command_line
from seqembed.checks.residues import Gaps, InvalidResidues, ResidueCheck, Suspicious
from seqembed.errors import count_of
from seqembed.fasta.files import find_fasta_files
from seqembed.index.sequence_ids import IdStyle
from seqembed.index.writer import write_index
from seqembed.models.prepared import load_tokenizer, read_prepared


def main() -> int:
    parser = command_line.parser(__doc__)
    required = partial(parser.add_argument, required=True)
    required("--fasta", nargs="+", help="paths or glob patterns")
    required("--ids", choices=get_args(IdStyle), help="which part of a header becomes the id")
    required("--model", type=Path, help="the JSON file that prepare_model wrote")
    unknown = "what to do with residues that the model does not know"
    required("--invalid-residues", choices=get_args(InvalidResidues), help=unknown)
    required("--gaps", choices=get_args(Gaps), help="what to do with the gaps of an alignment")
    strange = "what to do with text that does not look like residues"
    required("--suspicious", choices=get_args(Suspicious), help=strange)
    required("--output", type=Path, help="index.parquet")
    required("--residues", type=Path, help="the file to write the residues of all records to")
    arguments = parser.parse_args()
    dataset = arguments.output.absolute().parent.name
    return command_line.run(index, arguments, label=f" {dataset}")


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
    paths, report = (arguments.output, arguments.residues), command_line.report_progress(logger)
    count = write_index(files, *paths, arguments.ids, check, report)
    if summary := check.summary():
        logger.warning("%s", summary)
    found = f"{count_of(count, 'sequence')} of {count_of(len(files), 'file')}"
    logger.info(f"{arguments.output}: {found}")


if __name__ == "__main__":
    sys.exit(main())
