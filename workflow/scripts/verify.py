"""Verify files of seqembed: embeddings.h5, shards, checkpoint blocks and indexes."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from seqembed import command_line
from seqembed.errors import FileFormatError, SeqembedError
from seqembed.verify.verify import verify


def main() -> int:
    parser = command_line.parser(__doc__)
    several = "a file to verify; each file gets a line"
    parser.add_argument("files", metavar="FILE", type=Path, nargs="+", help=several)
    beside = "the index with which to compare the files (default: where the workflow puts it)"
    parser.add_argument("--index", type=Path, help=beside)
    failed = "what to do if some sequences could not be embedded (default: warn, which names them)"
    parser.add_argument("--on-quarantine", choices=["warn", "fail"], default="warn", help=failed)
    return command_line.run(verify_files, parser.parse_args())


def verify_files(arguments: argparse.Namespace, logger: logging.Logger) -> None:
    """Verify every file, even after a wrong one; then raise FileFormatError if any was wrong."""
    fail, wrong = arguments.on_quarantine == "fail", []
    for path in arguments.files:
        try:
            logger.info("%s", verify(path, arguments.index, fail_on_quarantine=fail))
        except SeqembedError as error:
            # command_line.run logs the error of a single file.
            if len(arguments.files) == 1:
                raise
            logger.error("%s", error)
            wrong.append(str(path))
    if wrong:
        count = f"{len(wrong):,} of {len(arguments.files):,} files are wrong"
        raise FileFormatError(f"{count}: {', '.join(wrong)}")


if __name__ == "__main__":
    sys.exit(main())
