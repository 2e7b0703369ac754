"""Malformed FASTA, and where `index` finds the fault; messages/fasta.txt has the messages."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fuzz_mutations import bgzip_block

from seqembed.fasta.compression import zstd


@dataclass(frozen=True, kw_only=True)
class Case:
    """Files by name, how `index` reads them, and with which place its message begins.

    file: empty where a message speaks of many records and so begins with no place.
    patterns: what index.py is given; asked: `invalid_residues`. allowed: whether
    `suspicious: allow` lets the file pass.
    """

    files: Mapping[str, bytes]
    file: str
    line: int | None
    record: str | None
    patterns: tuple[str, ...]
    ids: str = "header"
    asked: str = "error"
    molecule: str = "protein"
    gaps: str = "error"
    suspicious: str = "error"
    allowed: bool = False

    @property
    def place(self) -> str:
        """What the message begins with."""
        line = f", line {self.line}" if self.line else ""
        return self.file + line + (f", record {self.record!r}" if self.record else "")


def make_case(
    files: Mapping[str, bytes] | bytes | str,
    line: int | None = None,
    record: str | None = None,
    *,
    file: str = "a.fasta",
    patterns: tuple[str, ...] = (),
    **how: Any,
) -> Case:
    """A case of the content of a.fasta, or of files by name; the names are the patterns."""
    if isinstance(files, str):
        files = files.encode()
    if isinstance(files, bytes):
        files = {"a.fasta": files}
    patterns = patterns or tuple(files)
    return Case(files=files, file=file, line=line, record=record, patterns=patterns, **how)


def _tar(content: bytes) -> bytes:
    """A tar archive of one FASTA file."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as file:
        member = tarfile.TarInfo("proteins.faa")
        member.size = len(content)
        file.addfile(member, io.BytesIO(content))
    return archive.getvalue()


XZ = lzma.compress(b">g\n" + b"MKVLAT\n" * 40)
GZIP = gzip.compress(b">g\n" + b"MKVLAT\n" * 40, mtime=0)
# Not compressed, so that a flipped bit is one of a residue.
STORED = gzip.compress(b">g\n" + b"MKVLAT\n" * 40, 0, mtime=0)
BGZIP = bgzip_block(b">a\nMKV\n") + bgzip_block(b">b\nLLL\n")
TWINS = {"1/a.fasta": b">a\nMKV\n", "2/a.fasta": b">a\nLLL\n"}


_bad = make_case
BAD_FASTA = {
    "an empty file": _bad(b""),
    "blank lines alone": _bad(b"\n \r\n\t\n"),
    "an empty gzip file": _bad(gzip.compress(b"")),
    "text before the first header": _bad(b"My proteins\n>a\nMKV\n", 1),
    "text before the first header, below blank lines": _bad(b"\n\n  MKV\n>a\nMKV\n", 3),
    "a blank before the first header": _bad(b" >a\nMKV\n", 1),
    "comments and text before the first header": _bad(b"; made by hand\nMKV\n>a\nMKV\n", 2),
    "a page of HTML, as a failed download leaves it": _bad(
        b"<!DOCTYPE html>\n<p\n>Not found</p>\n", 1
    ),
    "an alignment of Clustal": _bad(b"CLUSTAL W\n\na MKV\nb MKL\n", 1),
    "a file of FASTQ": _bad(b"@a\nACGT\n+\nIIII\n", 1),
    "UTF-16, little-endian": _bad(">a\nMKV\n".encode("utf-16"), 1),
    "UTF-16, big-endian": _bad(b"\xfe\xff" + ">a\nMKV\n".encode("utf-16-be"), 1),
    "bzip2, cut in its data": _bad(bz2.compress(b">a\nMKV\n")[:-6]),
    "bzip2 of two streams, the second damaged": _bad(
        bz2.compress(b">a\nMKV\n") + b"BZh9" + bytes(range(40))
    ),
    "bzip2 with text after it": _bad(bz2.compress(b">a\nMKV\n") + b">b\nMKV\n"),
    "bzip2, cut between two pieces of equal size": _bad(
        bz2.compress(b">a\nMKVL") + bz2.compress(b"MKVLMKV")
    ),
    "bzip2, cut after its first piece": _bad(bz2.compress((b">a\n" + b"MKVL" * 25_000)[:100_000])),
    "xz, cut in its data": _bad(lzma.compress(b">a\nMKV\n")[:-9]),
    "xz with a flipped bit": _bad(XZ[:-30] + bytes([XZ[-30] ^ 1]) + XZ[-29:]),
    "xz, cut between two pieces of equal size": _bad(
        lzma.compress(b">a\nMKVL") + lzma.compress(b"MKVLMKV")
    ),
    "zstd, cut in its data": _bad(b"\x28\xb5\x2f\xfd\x04\x00"),
    "zstd, cut between two frames of equal size": _bad(
        zstd.compress(b">a\nMKVL") + zstd.compress(b"MKVLMKV")
    ),
    "gzip of gzip": _bad(gzip.compress(gzip.compress(b">a\nMKV\n")), 1),
    "zstd of bzip2": _bad(zstd.compress(bz2.compress(b">a\nMKV\n")), 1),
    "a tar archive": _bad(_tar(b">a\nMKV\n"), 1),
    "a tar archive within gzip": _bad(gzip.compress(_tar(b">a\nMKV\n")), 1),
    "a pointer of git-lfs": _bad(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n", 1
    ),
    "a record of GenBank": _bad(
        b"LOCUS       NC_001416  48502 bp\nORIGIN\n        1 gggcggcgac\n//\n", 1
    ),
    "an alignment of Stockholm": _bad(b"# STOCKHOLM 1.0\na MKV\n//\n", 1),
    "an alignment of PHYLIP": _bad(b" 2 3\na MKV\nb MKL\n", 1),
    "a file of PDB": _bad(b"HEADER    OXYGEN TRANSPORT\nATOM      1  N   MET A   1\n", 1),
    "a document of a word processor": _bad(b"{\\rtf1\\ansi >a\\\nMKV}\n", 1),
    "JSON": _bad(b'{"sequences": ["MKV"]}\n', 1),
    "a zip archive": _bad(b"PK\x03\x04\x14\x00", 1),
    "FASTQ within gzip": _bad(gzip.compress(b"\n@a\nACGT\n"), 2),
    "a gzip header alone": _bad(GZIP[:10]),
    "gzip, cut in its data": _bad(STORED[:-30]),
    "gzip, cut before its checksum": _bad(GZIP[:-8]),
    "gzip with a flipped bit in its data": _bad(
        STORED[:20] + bytes([STORED[20] ^ 2]) + STORED[21:]
    ),
    "gzip with a wrong checksum": _bad(GZIP[:-8] + bytes(4) + GZIP[-4:]),
    "gzip with a wrong length": _bad(GZIP[:-4] + bytes(4)),
    "gzip with text after it": _bad(GZIP + b">z\nMKV\n"),
    "gzip of an unknown method": _bad(b"\x1f\x8b\x07" + GZIP[3:]),
    "two bytes of gzip": _bad(b"\x1f\x8b"),
    "bgzip without its end": _bad(BGZIP),
    "bgzip, cut within a block": _bad(BGZIP[:-5]),
    "text with gzip after it": _bad(b">a\nMKV\n" + GZIP, 3, "a"),
    "line ends of an old Macintosh": _bad(b">a\rMKV\r>b\rLLL\r", 1),
    "line ends of an old Macintosh, then others": _bad(
        b">a\rMKV\r>b\rLLL\n>c\nMKV\n", 1, asked="skip"
    ),
    "a carriage return between residues": _bad(b">a\nMKV\r\nMK\rV\r\n", 3, "a", asked="unk"),
    "a carriage return in a header": _bad(b">a\nMKV\n>b\rc\nMKV\n", 3),
    "a carriage return and a blank at the end of a header": _bad(b">a\nMKV\n>b\r \nMKV\n", 3),
    "files joined without a line break": _bad(b">a\nMKV>b about\nLLL\n", 2, "a", asked="unk"),
    "files joined without a line break, sequences left out": _bad(
        b">a\nMKV\nMKV>b\nLLL\n", 3, "a", asked="skip"
    ),
    "a header that is indented": _bad(b">a\nMKV\n\n  >b\nLLL\n", 4, "a", asked="unk"),
    "NULs in a sequence, as a crash leaves them": _bad(
        b">a\nMKV\n>b\nMK\n" + bytes(4096), 5, "b", asked="unk"
    ),
    "an escape in a sequence": _bad(b">a\nMK\x1b[31mV\n", 2, "a", asked="skip"),
    "a delete character in a sequence": _bad(b">a\nM\x7fKV\n", 2, "a"),
    "a comment between residues": _bad(b">a\nMKV\n;LLL\nMKV\n", 3, "a", asked="unk"),
    "a NUL in a header": _bad(b">a\nMKV\n>b\0c\nMKV\n", 3),
    "a header without an id": _bad(b">a\nMKV\n>\nMKV\n", 3),
    "a header with a blank before the id": _bad(b">a\r\nMKV\r\n> b\r\nMKV\r\n", 3),
    "a header of blanks alone": _bad(b">a\nMKV\n>\v\f\nMKV\n", 3),
    "a header that ends the file": _bad(b">a\nMKV\n>b", 3, "b"),
    "a header above another": _bad(b">a\n>b\nMKV\n", 1, "a"),
    "blanks for residues": _bad(b">a\nMKV\n>b\n \t\n\n>c\nMKV\n", 3, "b"),
    "a stop for residues": _bad(b">a\nMKV\n>b\n*\n", 3, "b", asked="unk"),
    "an id of 1,025 bytes": _bad(">" + "é" * 512 + "e\nMKV\n", 1, "é" * 40 + "..."),
    "a header in Latin-1": _bad(b">a\nMKV\n>prot\xe9ine b\nMKV\n", 3),
    "half of a surrogate pair": _bad(b">a\xed\xa0\x80\nMKV\n", 1),
    "an overlong encoding": _bad(b">\xc0\xaf\nMKV\n", 1),
    "an id that is used twice": _bad(b">a\nMKV\n>b\nLLL\n>a two\nMKV\n", 5, "a"),
    "an id that is used twice, by file": _bad(
        b">a\nMKV\n>a\nMKL\n", 3, "a.fasta:a", ids="file:header"
    ),
    "an id in two files": _bad(
        {"a.fasta": b">x\nMKV\n>a\nMKV\n", "b.fasta": b"\n>a\nMKV\n"}, 2, "a", file="b.fasta"
    ),
    "an id in two files of one name": _bad(
        TWINS, 1, "a.fasta:a", ids="file:header", file="2/a.fasta"
    ),
    "an id that is used twice, with hostile letters": _bad(
        ">$(id)`'\"\u202e\x1b[2J a\nMKV\n".encode() * 2, 3, "$(id)`'\"\u202e\x1b[2J"
    ),
    "an id that is too long with the file before it": _bad(
        b">" + b"i" * 1020 + b"\nMKV\n", 1, "i" * 40, ids="file:header"
    ),
    "a residue that ESM-2 does not know": _bad(b">a\nMKV\n>b\nMKJ\n", file=""),
    "a stop within a protein": _bad(b">a\nMK*V*\n", file=""),
    "numbers between residues, as GenBank has them": _bad(b">a\n1 mkvlw 5\n6 mkv 8\n", 2, "a"),
    "a letter that is not ASCII": _bad(">a\nMKVÄ\n", 2, "a"),
    "nothing that can be embedded": _bad(b">a\nMJ\n>b\nJ\n", asked="skip", file=""),
    "N in DNA": _bad(b">a\nACGTNN\n", molecule="DNA", file=""),
    "RNA for a model of DNA": _bad(b">a\nACGU\n", molecule="DNA", file=""),
    "proteins for a model of DNA": _bad(
        b">a\n" + b"MKVLWEDRSTAGQIPFYNHC" * 5 + b"\n", molecule="DNA", asked="skip"
    ),
    "DNA for a model of proteins": _bad(b">a\n" + b"ACGTN" * 20 + b"\n", asked="unk"),
    "the second of two files": _bad(
        {"a.fasta": b">a\nMKV\n", "b.fasta": b">b\n"}, 1, "b", file="b.fasta"
    ),
    "a file that is not there": _bad({}, patterns=("none.fasta",), file="none.fasta"),
    "a pattern that matches nothing": _bad(
        {"a.fasta": b">a\nMKV\n"}, patterns=("a.fasta", "*.faa"), file="*.faa"
    ),
}
