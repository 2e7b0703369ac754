"""Recognise files of other formats by their beginning."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NoReturn

from seqembed.errors import FastaError
from seqembed.fasta.compression import compression_of

# The beginning of the text before the first header, and what such a file is.
_BEGINNINGS = {
    rb"\xff\xfe|\xfe\xff": "is UTF-16; save the file as UTF-8",
    rb"PK\x03\x04": "is a zip archive; unpack it, and give the FASTA file in it",
    rb"\x1f[\x9d\xa0]": "is compressed with compress (.Z); unpack it, or compress it with gzip",
    rb"7z\xbc\xaf\x27\x1c|Rar!": "is an archive; unpack it, or compress the FASTA file with gzip",
    rb".{257}ustar": "is a tar archive; unpack it, and name the FASTA files in it",
    rb"\x89HDF|PAR1|SQLite format": "is a binary file of another program; export it as FASTA",
    rb"@": "looks like FASTQ; convert the file to FASTA",
    rb"\s*<": "looks like a page of HTML or XML, as a failed download leaves it; download it again",
    rb"\{\\rtf": "is a document of a word processor (RTF); save it as plain text",
    rb"\s*[{\[]": "looks like JSON; export it as FASTA",
    rb"LOCUS |ID   ": "looks like a record of GenBank, EMBL or UniProt; convert the file to FASTA",
    rb"CLUSTAL|MUSCLE|# STOCKHOLM|#NEXUS|PileUp|!!.A_MULTIPLE|\s*[0-9]+ +[0-9]+\s*\n": (
        "looks like an alignment of another format; convert the file to FASTA"
    ),
    rb"HEADER  |ATOM  |data_|MODEL  ": "looks like a structure; give its sequences as FASTA",
    rb"##gff": "looks like GFF; give the sequences that it annotates as FASTA",
    rb"version https://git-lfs": "is a pointer of git-lfs, not the file; run `git lfs pull`",
}
_KINDS = {re.compile(begin, re.DOTALL): explanation for begin, explanation in _BEGINNINGS.items()}
_OTHER = "text before the first header; a FASTA file begins with `>`, remove what precedes it"


def refuse_preamble(text: bytes, path: str | Path, line: int) -> NoReturn:
    """Raise FastaError for `text` before the first header; line: the text's first."""
    if compression_of(text):
        raise FastaError("is compressed twice; unpack it once", path=path, line=line)
    found = (explanation for begin, explanation in _KINDS.items() if begin.match(text))
    raise FastaError(next(found, _OTHER), path=path, line=line)
