"""Malformed FASTA, and where and what `index` finds in each; messages/fasta.txt has it whole."""

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
    """Files by name, how `index` reads them, and where and what it finds.

    patterns: what index.py is given; asked: `invalid_residues`. phrase: of the message, which
    begins with file, line and record; `file` is empty where it does not, as it is of many records.
    allowed: whether `suspicious: allow` lets the file pass.
    """

    files: Mapping[str, bytes]
    phrase: str
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
    phrase: str,
    line: int | None = None,
    record: str | None = None,
    *,
    file: str = "a.fasta",
    patterns: tuple[str, ...] = (),
    **how: Any,
) -> Case:
    """Of the content of a.fasta, or of files by name, which are the patterns if none are given."""
    if isinstance(files, str):
        files = files.encode()
    if isinstance(files, bytes):
        files = {"a.fasta": files}
    patterns = patterns or tuple(files)
    return Case(
        files=files, phrase=phrase, file=file, line=line, record=record, patterns=patterns, **how
    )


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


_bad = make_case
BAD_FASTA = {
    "an empty file": _bad(b"", "holds no record"),
    "blank lines alone": _bad(b"\n \r\n\t\n", "holds no record"),
    "an empty gzip file": _bad(gzip.compress(b""), "holds no record"),
    "text before the first header": _bad(
        b"My proteins\n>a\nMKV\n", "text before the first header", 1
    ),
    "text before the first header, below blank lines": _bad(
        b"\n\n  MKV\n>a\nMKV\n", "text before the first header", 3
    ),
    "a blank before the first header": _bad(b" >a\nMKV\n", "text before the first header", 1),
    "comments and text before the first header": _bad(
        b"; made by hand\nMKV\n>a\nMKV\n", "text before the first header", 2
    ),
    "a page of HTML, as a failed download leaves it": _bad(
        b"<!DOCTYPE html>\n<p\n>Not found</p>\n", "page of HTML", 1
    ),
    "an alignment of Clustal": _bad(b"CLUSTAL W\n\na MKV\nb MKL\n", "alignment", 1),
    "a file of FASTQ": _bad(b"@a\nACGT\n+\nIIII\n", "looks like FASTQ", 1),
    "UTF-16, little-endian": _bad(">a\nMKV\n".encode("utf-16"), "is UTF-16", 1),
    "UTF-16, big-endian": _bad(b"\xfe\xff" + ">a\nMKV\n".encode("utf-16-be"), "is UTF-16", 1),
    "bzip2, cut in its data": _bad(bz2.compress(b">a\nMKV\n")[:-6], "bzip2 file is truncated"),
    "bzip2 of two streams, the second damaged": _bad(
        bz2.compress(b">a\nMKV\n") + b"BZh9" + bytes(range(40)), "bzip2 file is corrupt"
    ),
    "bzip2 with text after it": _bad(
        bz2.compress(b">a\nMKV\n") + b">b\nMKV\n", "bzip2 file is corrupt"
    ),
    "bzip2, cut between two pieces of equal size": _bad(
        bz2.compress(b">a\nMKVL") + bz2.compress(b"MKVLMKV"), "bzip2 file ends within a line"
    ),
    "bzip2, cut after its first piece": _bad(
        bz2.compress((b">a\n" + b"MKVL" * 25_000)[:100_000]), "bzip2 file ends within a line"
    ),
    "xz, cut in its data": _bad(lzma.compress(b">a\nMKV\n")[:-9], "xz file is truncated"),
    "xz with a flipped bit": _bad(XZ[:-30] + bytes([XZ[-30] ^ 1]) + XZ[-29:], "xz file is corrupt"),
    "xz, cut between two pieces of equal size": _bad(
        lzma.compress(b">a\nMKVL") + lzma.compress(b"MKVLMKV"), "xz file ends within a line"
    ),
    "zstd, cut in its data": _bad(b"\x28\xb5\x2f\xfd\x04\x00", "zstd file is truncated"),
    "zstd, cut between two frames of equal size": _bad(
        zstd.compress(b">a\nMKVL") + zstd.compress(b"MKVLMKV"), "zstd file ends within a line"
    ),
    "gzip of gzip": _bad(gzip.compress(gzip.compress(b">a\nMKV\n")), "compressed twice", 1),
    "zstd of bzip2": _bad(zstd.compress(bz2.compress(b">a\nMKV\n")), "compressed twice", 1),
    "a tar archive": _bad(_tar(b">a\nMKV\n"), "tar archive", 1),
    "a tar archive within gzip": _bad(gzip.compress(_tar(b">a\nMKV\n")), "tar archive", 1),
    "a pointer of git-lfs": _bad(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n",
        "pointer of git-lfs",
        1,
    ),
    "a record of GenBank": _bad(
        b"LOCUS       NC_001416  48502 bp\nORIGIN\n        1 gggcggcgac\n//\n",
        "record of GenBank",
        1,
    ),
    "an alignment of Stockholm": _bad(b"# STOCKHOLM 1.0\na MKV\n//\n", "alignment", 1),
    "an alignment of PHYLIP": _bad(b" 2 3\na MKV\nb MKL\n", "alignment", 1),
    "a file of PDB": _bad(
        b"HEADER    OXYGEN TRANSPORT\nATOM      1  N   MET A   1\n", "looks like a structure", 1
    ),
    "a document of a word processor": _bad(b"{\\rtf1\\ansi >a\\\nMKV}\n", "word processor", 1),
    "JSON": _bad(b'{"sequences": ["MKV"]}\n', "looks like JSON", 1),
    "a zip archive": _bad(b"PK\x03\x04\x14\x00", "zip archive", 1),
    "FASTQ within gzip": _bad(gzip.compress(b"\n@a\nACGT\n"), "looks like FASTQ", 2),
    "a gzip header alone": _bad(GZIP[:10], "gzip file is truncated"),
    "gzip, cut in its data": _bad(STORED[:-30], "gzip file is truncated"),
    "gzip, cut before its checksum": _bad(GZIP[:-8], "gzip file is truncated"),
    "gzip with a flipped bit in its data": _bad(
        STORED[:20] + bytes([STORED[20] ^ 2]) + STORED[21:], "gzip file is corrupt"
    ),
    "gzip with a wrong checksum": _bad(GZIP[:-8] + bytes(4) + GZIP[-4:], "gzip file is corrupt"),
    "gzip with a wrong length": _bad(GZIP[:-4] + bytes(4), "gzip file is corrupt"),
    "gzip with text after it": _bad(GZIP + b">z\nMKV\n", "gzip file is corrupt"),
    "gzip of an unknown method": _bad(b"\x1f\x8b\x07" + GZIP[3:], "gzip file is corrupt"),
    "two bytes of gzip": _bad(b"\x1f\x8b", "gzip file is truncated"),
    "bgzip without its end": _bad(BGZIP, "the end that bgzip writes"),
    "bgzip, cut within a block": _bad(BGZIP[:-5], "the end that bgzip writes"),
    "text with gzip after it": _bad(b">a\nMKV\n" + GZIP, "byte 0x1f", 3, "a"),
    "line ends of an old Macintosh": _bad(b">a\rMKV\r>b\rLLL\r", "carriage return", 1),
    "line ends of an old Macintosh, then others": _bad(
        b">a\rMKV\r>b\rLLL\n>c\nMKV\n", "carriage return", 1, asked="skip"
    ),
    "a carriage return between residues": _bad(
        b">a\nMKV\r\nMK\rV\r\n", "carriage return", 3, "a", asked="unk"
    ),
    "a carriage return in a header": _bad(b">a\nMKV\n>b\rc\nMKV\n", "carriage return", 3),
    "a carriage return and a blank at the end of a header": _bad(
        b">a\nMKV\n>b\r \nMKV\n", "carriage return", 3
    ),
    "files joined without a line break": _bad(
        b">a\nMKV>b about\nLLL\n", "`>` within a line", 2, "a", asked="unk"
    ),
    "files joined without a line break, sequences left out": _bad(
        b">a\nMKV\nMKV>b\nLLL\n", "`>` within a line", 3, "a", asked="skip"
    ),
    "a header that is indented": _bad(
        b">a\nMKV\n\n  >b\nLLL\n", "`>` within a line", 4, "a", asked="unk"
    ),
    "NULs in a sequence, as a crash leaves them": _bad(
        b">a\nMKV\n>b\nMK\n" + bytes(4096), "byte 0x00", 5, "b", asked="unk"
    ),
    "an escape in a sequence": _bad(b">a\nMK\x1b[31mV\n", "byte 0x1b", 2, "a", asked="skip"),
    "a delete character in a sequence": _bad(b">a\nM\x7fKV\n", "byte 0x7f", 2, "a"),
    "a comment between residues": _bad(
        b">a\nMKV\n;LLL\nMKV\n", "begins with `;`", 3, "a", asked="unk"
    ),
    "a NUL in a header": _bad(b">a\nMKV\n>b\0c\nMKV\n", "NUL byte", 3),
    "a header without an id": _bad(b">a\nMKV\n>\nMKV\n", "has no id", 3),
    "a header with a blank before the id": _bad(b">a\r\nMKV\r\n> b\r\nMKV\r\n", "has no id", 3),
    "a header of blanks alone": _bad(b">a\nMKV\n>\v\f\nMKV\n", "has no id", 3),
    "a header that ends the file": _bad(b">a\nMKV\n>b", "has no residues", 3, "b"),
    "a header above another": _bad(b">a\n>b\nMKV\n", "has no residues", 1, "a"),
    "blanks for residues": _bad(b">a\nMKV\n>b\n \t\n\n>c\nMKV\n", "has no residues", 3, "b"),
    "a stop for residues": _bad(b">a\nMKV\n>b\n*\n", "has no residues", 3, "b", asked="unk"),
    "an id of 1,025 bytes": _bad(
        ">" + "é" * 512 + "e\nMKV\n", "has 1,025 bytes", 1, "é" * 40 + "..."
    ),
    "a header in Latin-1": _bad(b">a\nMKV\n>prot\xe9ine b\nMKV\n", "not UTF-8 (byte 6)", 3),
    "half of a surrogate pair": _bad(b">a\xed\xa0\x80\nMKV\n", "not UTF-8 (byte 3)", 1),
    "an overlong encoding": _bad(b">\xc0\xaf\nMKV\n", "not UTF-8 (byte 2)", 1),
    "an id that is used twice": _bad(
        b">a\nMKV\n>b\nLLL\n>a two\nMKV\n", "used in a.fasta, line 1", 5, "a"
    ),
    "an id that is used twice, by file": _bad(
        b">a\nMKV\n>a\nMKL\n", "used in a.fasta, line 1", 3, "a.fasta:a", ids="file:header"
    ),
    "an id in two files": _bad(
        {"a.fasta": b">x\nMKV\n>a\nMKV\n", "b.fasta": b"\n>a\nMKV\n"},
        "used in a.fasta, line 3",
        2,
        "a",
        file="b.fasta",
    ),
    "an id in two files of one name": _bad(
        {"1/a.fasta": b">a\nMKV\n", "2/a.fasta": b">a\nLLL\n"},
        "used in 1/a.fasta, line 1",
        1,
        "a.fasta:a",
        ids="file:header",
        file="2/a.fasta",
    ),
    "an id that is used twice, with hostile letters": _bad(
        ">$(id)`'\"\u202e\x1b[2J a\nMKV\n".encode() * 2,
        "used in a.fasta, line 1",
        3,
        "$(id)`'\"\u202e\x1b[2J",
    ),
    "an id that is too long with the file before it": _bad(
        b">" + b"i" * 1020 + b"\nMKV\n", "over 1,024 bytes", 1, "i" * 40, ids="file:header"
    ),
    "a residue that ESM-2 does not know": _bad(
        b">a\nMKV\n>b\nMKJ\n", "does not know 1 residue in 1 sequence", file=""
    ),
    "a stop within a protein": _bad(b">a\nMK*V*\n", "a stop may only end", file=""),
    "numbers between residues, as GenBank has them": _bad(
        b">a\n1 mkvlw 5\n6 mkv 8\n", "contains '1'", 2, "a"
    ),
    "a letter that is not ASCII": _bad(">a\nMKVÄ\n", "U+00C4 LATIN", 2, "a"),
    "nothing that can be embedded": _bad(
        b">a\nMJ\n>b\nJ\n", "`invalid_residues: skip` leaves no sequence", asked="skip", file=""
    ),
    "N in DNA": _bad(b">a\nACGTNN\n", "sequences hold N", molecule="DNA", file=""),
    "RNA for a model of DNA": _bad(b">a\nACGU\n", "RNA can be written", molecule="DNA", file=""),
    "proteins for a model of DNA": _bad(
        b">a\n" + b"MKVLWEDRSTAGQIPFYNHC" * 5 + b"\n",
        "looks like proteins",
        molecule="DNA",
        asked="skip",
    ),
    "DNA for a model of proteins": _bad(
        b">a\n" + b"ACGTN" * 20 + b"\n", "looks like DNA or RNA", asked="unk"
    ),
    "the second of two files": _bad(
        {"a.fasta": b">a\nMKV\n", "b.fasta": b">b\n"}, "has no residues", 1, "b", file="b.fasta"
    ),
    "a file that is not there": _bad(
        {}, "matches no file", patterns=("none.fasta",), file="none.fasta"
    ),
    "a pattern that matches nothing": _bad(
        {"a.fasta": b">a\nMKV\n"}, "matches no file", patterns=("a.fasta", "*.faa"), file="*.faa"
    ),
}
