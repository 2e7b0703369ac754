"""Malformed FASTA, and the whole of what `index` says about each."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from seqembed.fasta.compression import zstd


@dataclass(frozen=True, kw_only=True)
class BadFasta:
    """Files by name, how they are indexed, and the line that this must end with.

    patterns: what index.py is given, left out the names of the files. asked: `invalid_residues`.
    """

    files: Mapping[str, bytes]
    error: str
    patterns: tuple[str, ...]
    ids: str
    asked: str
    molecule: str
    gaps: str
    suspicious: str


def _bad(
    files: Mapping[str, bytes] | bytes | str,
    error: str,
    *,
    patterns: tuple[str, ...] = (),
    ids: str = "header",
    asked: str = "error",
    molecule: str = "protein",
    gaps: str = "error",
    suspicious: str = "error",
) -> BadFasta:
    """Of one file's content, or of files by name."""
    if isinstance(files, str):
        files = files.encode()
    if isinstance(files, bytes):
        files = {"a.fasta": files}
    return BadFasta(
        files=files,
        error=error,
        patterns=patterns or tuple(files),
        ids=ids,
        asked=asked,
        molecule=molecule,
        gaps=gaps,
        suspicious=suspicious,
    )


def _bgzip_block(content: bytes) -> bytes:
    deflate = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = deflate.compress(content) + deflate.flush()
    head = bytes.fromhex("1f8b08040000000000ff060042430200") + struct.pack("<H", len(body) + 25)
    return head + body + struct.pack("<II", zlib.crc32(content), len(content))


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
BGZIP = _bgzip_block(b">a\nMKV\n") + _bgzip_block(b">b\nLLL\n")


BAD_FASTA = {
    "an empty file": _bad(
        b"",
        "a.fasta: holds no record; give a FASTA file with at least one",
    ),
    "blank lines alone": _bad(
        b"\n \r\n\t\n",
        "a.fasta: holds no record; give a FASTA file with at least one",
    ),
    "an empty gzip file": _bad(
        gzip.compress(b""),
        "a.fasta: holds no record; give a FASTA file with at least one",
    ),
    "text before the first header": _bad(
        b"My proteins\n>a\nMKV\n",
        "a.fasta, line 1: text before the first header; a FASTA file begins with `>`, "
        "remove what precedes it",
    ),
    "text before the first header, below blank lines": _bad(
        b"\n\n  MKV\n>a\nMKV\n",
        "a.fasta, line 3: text before the first header; a FASTA file begins with `>`, "
        "remove what precedes it",
    ),
    "a blank before the first header": _bad(
        b" >a\nMKV\n",
        "a.fasta, line 1: text before the first header; a FASTA file begins with `>`, "
        "remove what precedes it",
    ),
    "comments and text before the first header": _bad(
        b"; made by hand\nMKV\n>a\nMKV\n",
        "a.fasta, line 2: text before the first header; a FASTA file begins with `>`, "
        "remove what precedes it",
    ),
    "a page of HTML, as a failed download leaves it": _bad(
        b"<!DOCTYPE html>\n<p\n>Not found</p>\n",
        "a.fasta, line 1: looks like a page of HTML or XML, as a failed download leaves it; "
        "download it again",
    ),
    "an alignment of Clustal": _bad(
        b"CLUSTAL W\n\na MKV\nb MKL\n",
        "a.fasta, line 1: looks like an alignment of another format; convert the file to FASTA",
    ),
    "a file of FASTQ": _bad(
        b"@a\nACGT\n+\nIIII\n",
        "a.fasta, line 1: looks like FASTQ; convert the file to FASTA",
    ),
    "UTF-16, little-endian": _bad(
        ">a\nMKV\n".encode("utf-16"),
        "a.fasta, line 1: is UTF-16; save the file as UTF-8",
    ),
    "UTF-16, big-endian": _bad(
        b"\xfe\xff" + ">a\nMKV\n".encode("utf-16-be"),
        "a.fasta, line 1: is UTF-16; save the file as UTF-8",
    ),
    "bzip2, cut in its data": _bad(
        bz2.compress(b">a\nMKV\n")[:-6],
        "a.fasta: the bzip2 file is truncated; copy it again",
    ),
    "bzip2 of two streams, the second damaged": _bad(
        bz2.compress(b">a\nMKV\n") + b"BZh9" + bytes(range(40)),
        "a.fasta: the bzip2 file is corrupt (Invalid data stream); copy it again",
    ),
    "bzip2 with text after it": _bad(
        bz2.compress(b">a\nMKV\n") + b">b\nMKV\n",
        "a.fasta: the bzip2 file is corrupt (Invalid data stream); copy it again",
    ),
    "bzip2, cut between two pieces of equal size": _bad(
        bz2.compress(b">a\nMKVL") + bz2.compress(b"MKVLMKV"),
        "a.fasta: the bzip2 file ends within a line, just where one of its streams ends, so it "
        "is truncated; copy it again, or end its text with a line break if it is complete",
    ),
    "bzip2, cut after its first piece": _bad(
        bz2.compress((b">a\n" + b"MKVL" * 25_000)[:100_000]),
        "a.fasta: the bzip2 file ends within a line, just where one of its streams ends, so it "
        "is truncated; copy it again, or end its text with a line break if it is complete",
    ),
    "xz, cut in its data": _bad(
        lzma.compress(b">a\nMKV\n")[:-9],
        "a.fasta: the xz file is truncated; copy it again",
    ),
    "xz with a flipped bit": _bad(
        XZ[:-30] + bytes([XZ[-30] ^ 1]) + XZ[-29:],
        "a.fasta: the xz file is corrupt (Corrupt input data); copy it again",
    ),
    "xz, cut between two pieces of equal size": _bad(
        lzma.compress(b">a\nMKVL") + lzma.compress(b"MKVLMKV"),
        "a.fasta: the xz file ends within a line, just where one of its streams ends, so it "
        "is truncated; copy it again, or end its text with a line break if it is complete",
    ),
    "zstd, cut in its data": _bad(
        b"\x28\xb5\x2f\xfd\x04\x00",
        "a.fasta: the zstd file is truncated; copy it again",
    ),
    "zstd, cut between two frames of equal size": _bad(
        zstd.compress(b">a\nMKVL") + zstd.compress(b"MKVLMKV"),
        "a.fasta: the zstd file ends within a line, just where one of its streams ends, so it "
        "is truncated; copy it again, or end its text with a line break if it is complete",
    ),
    "gzip of gzip": _bad(
        gzip.compress(gzip.compress(b">a\nMKV\n")),
        "a.fasta, line 1: is compressed twice; unpack it once",
    ),
    "zstd of bzip2": _bad(
        zstd.compress(bz2.compress(b">a\nMKV\n")),
        "a.fasta, line 1: is compressed twice; unpack it once",
    ),
    "a tar archive": _bad(
        _tar(b">a\nMKV\n"),
        "a.fasta, line 1: is a tar archive; unpack it, and name the FASTA files in it",
    ),
    "a tar archive within gzip": _bad(
        gzip.compress(_tar(b">a\nMKV\n")),
        "a.fasta, line 1: is a tar archive; unpack it, and name the FASTA files in it",
    ),
    "a pointer of git-lfs": _bad(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n",
        "a.fasta, line 1: is a pointer of git-lfs, not the file; run `git lfs pull`",
    ),
    "a record of GenBank": _bad(
        b"LOCUS       NC_001416  48502 bp\nORIGIN\n        1 gggcggcgac\n//\n",
        "a.fasta, line 1: looks like a record of GenBank, EMBL or UniProt; convert the file to "
        "FASTA",
    ),
    "an alignment of Stockholm": _bad(
        b"# STOCKHOLM 1.0\na MKV\n//\n",
        "a.fasta, line 1: looks like an alignment of another format; convert the file to FASTA",
    ),
    "an alignment of PHYLIP": _bad(
        b" 2 3\na MKV\nb MKL\n",
        "a.fasta, line 1: looks like an alignment of another format; convert the file to FASTA",
    ),
    "a file of PDB": _bad(
        b"HEADER    OXYGEN TRANSPORT\nATOM      1  N   MET A   1\n",
        "a.fasta, line 1: looks like a structure; give its sequences as FASTA",
    ),
    "a document of a word processor": _bad(
        b"{\\rtf1\\ansi >a\\\nMKV}\n",
        "a.fasta, line 1: is a document of a word processor (RTF); save it as plain text",
    ),
    "JSON": _bad(
        b'{"sequences": ["MKV"]}\n',
        "a.fasta, line 1: looks like JSON; export it as FASTA",
    ),
    "a zip archive": _bad(
        b"PK\x03\x04\x14\x00",
        "a.fasta, line 1: is a zip archive; unpack it, or compress the FASTA file with gzip",
    ),
    "FASTQ within gzip": _bad(
        gzip.compress(b"\n@a\nACGT\n"),
        "a.fasta, line 2: looks like FASTQ; convert the file to FASTA",
    ),
    "a gzip header alone": _bad(
        GZIP[:10],
        "a.fasta: the gzip file is truncated; copy it again",
    ),
    "gzip, cut in its data": _bad(
        STORED[:-30],
        "a.fasta: the gzip file is truncated; copy it again",
    ),
    "gzip, cut before its checksum": _bad(
        GZIP[:-8],
        "a.fasta: the gzip file is truncated; copy it again",
    ),
    "gzip with a flipped bit in its data": _bad(
        STORED[:20] + bytes([STORED[20] ^ 2]) + STORED[21:],
        "a.fasta: the gzip file is corrupt (CRC check failed 0x8a5db7a2 != 0x19ddb9d1); "
        "copy it again",
    ),
    "gzip with a wrong checksum": _bad(
        GZIP[:-8] + bytes(4) + GZIP[-4:],
        "a.fasta: the gzip file is corrupt (CRC check failed 0x0 != 0x8a5db7a2); copy it again",
    ),
    "gzip with a wrong length": _bad(
        GZIP[:-4] + bytes(4),
        "a.fasta: the gzip file is corrupt (Incorrect length of data produced); copy it again",
    ),
    "gzip with text after it": _bad(
        GZIP + b">z\nMKV\n",
        "a.fasta: the gzip file is corrupt (Not a gzipped file (b'>z')); copy it again",
    ),
    "gzip of an unknown method": _bad(
        b"\x1f\x8b\x07" + GZIP[3:],
        "a.fasta: the gzip file is corrupt (Unknown compression method); copy it again",
    ),
    "two bytes of gzip": _bad(
        b"\x1f\x8b",
        "a.fasta: the gzip file is truncated; copy it again",
    ),
    "bgzip without its end": _bad(
        BGZIP,
        "a.fasta: lacks the end that bgzip writes, so it is truncated; copy it again, or "
        "compress it anew if it is complete",
    ),
    "bgzip, cut within a block": _bad(
        BGZIP[:-5],
        "a.fasta: lacks the end that bgzip writes, so it is truncated; copy it again, or "
        "compress it anew if it is complete",
    ),
    "text with gzip after it": _bad(
        b">a\nMKV\n" + GZIP,
        "a.fasta, line 3, record 'a': byte 0x1f in the sequence, which is no text; is the "
        "file binary, or damaged? Copy it again",
    ),
    "line ends of an old Macintosh": _bad(
        b">a\rMKV\r>b\rLLL\r",
        "a.fasta, line 1: a carriage return within a line, as old Macintosh files have it; "
        "convert the line ends to LF or CRLF",
    ),
    "line ends of an old Macintosh, then others": _bad(
        b">a\rMKV\r>b\rLLL\n>c\nMKV\n",
        "a.fasta, line 1: a carriage return within a line, as old Macintosh files have it; "
        "convert the line ends to LF or CRLF",
        asked="skip",
    ),
    "a carriage return between residues": _bad(
        b">a\nMKV\r\nMK\rV\r\n",
        "a.fasta, line 3, record 'a': a carriage return within a line, as old Macintosh "
        "files have it; convert the line ends to LF or CRLF",
        asked="unk",
    ),
    "a carriage return in a header": _bad(
        b">a\nMKV\n>b\rc\nMKV\n",
        "a.fasta, line 3: a carriage return within a line, as old Macintosh files have it; "
        "convert the line ends to LF or CRLF",
    ),
    "a carriage return and a blank at the end of a header": _bad(
        b">a\nMKV\n>b\r \nMKV\n",
        "a.fasta, line 3: a carriage return within a line, as old Macintosh files have it; "
        "convert the line ends to LF or CRLF",
    ),
    "files joined without a line break": _bad(
        b">a\nMKV>b about\nLLL\n",
        "a.fasta, line 2, record 'a': `>` within a line of the sequence; a header begins a "
        "line of its own: put a line break in front of it, or remove it",
        asked="unk",
    ),
    "files joined without a line break, sequences left out": _bad(
        b">a\nMKV\nMKV>b\nLLL\n",
        "a.fasta, line 3, record 'a': `>` within a line of the sequence; a header begins a "
        "line of its own: put a line break in front of it, or remove it",
        asked="skip",
    ),
    "a header that is indented": _bad(
        b">a\nMKV\n\n  >b\nLLL\n",
        "a.fasta, line 4, record 'a': `>` within a line of the sequence; a header begins a "
        "line of its own: put a line break in front of it, or remove it",
        asked="unk",
    ),
    "NULs in a sequence, as a crash leaves them": _bad(
        b">a\nMKV\n>b\nMK\n" + bytes(4096),
        "a.fasta, line 5, record 'b': byte 0x00 in the sequence, which is no text; is the "
        "file binary, or damaged? Copy it again",
        asked="unk",
    ),
    "an escape in a sequence": _bad(
        b">a\nMK\x1b[31mV\n",
        "a.fasta, line 2, record 'a': byte 0x1b in the sequence, which is no text; is the "
        "file binary, or damaged? Copy it again",
        asked="skip",
    ),
    "a delete character in a sequence": _bad(
        b">a\nM\x7fKV\n",
        "a.fasta, line 2, record 'a': byte 0x7f in the sequence, which is no text; is the "
        "file binary, or damaged? Copy it again",
    ),
    "a comment between residues": _bad(
        b">a\nMKV\n;LLL\nMKV\n",
        "a.fasta, line 3, record 'a': a line that begins with `;`; remove comments from the file",
        asked="unk",
    ),
    "a NUL in a header": _bad(
        b">a\nMKV\n>b\0c\nMKV\n",
        "a.fasta, line 3: the header holds a NUL byte; remove it",
    ),
    "a header without an id": _bad(
        b">a\nMKV\n>\nMKV\n",
        "a.fasta, line 3: the header has no id; write `>id description`, with no blank after `>`",
    ),
    "a header with a blank before the id": _bad(
        b">a\r\nMKV\r\n> b\r\nMKV\r\n",
        "a.fasta, line 3: the header has no id; write `>id description`, with no blank after `>`",
    ),
    "a header of blanks alone": _bad(
        b">a\nMKV\n>\v\f\nMKV\n",
        "a.fasta, line 3: the header has no id; write `>id description`, with no blank after `>`",
    ),
    "a header that ends the file": _bad(
        b">a\nMKV\n>b",
        "a.fasta, line 3, record 'b': has no residues; remove the record or add its sequence",
    ),
    "a header above another": _bad(
        b">a\n>b\nMKV\n",
        "a.fasta, line 1, record 'a': has no residues; remove the record or add its sequence",
    ),
    "blanks for residues": _bad(
        b">a\nMKV\n>b\n \t\n\n>c\nMKV\n",
        "a.fasta, line 3, record 'b': has no residues; remove the record or add its sequence",
    ),
    "a stop for residues": _bad(
        b">a\nMKV\n>b\n*\n",
        "a.fasta, line 3, record 'b': has no residues; remove the record or add its sequence",
        asked="unk",
    ),
    "an id of 1,025 bytes": _bad(
        ">" + "é" * 512 + "e\nMKV\n",
        "a.fasta, line 1, record 'éééééééééééééééééééééééééééééééééééééééé...': the id has "
        "1,025 bytes; shorten it to at most 1,024",
    ),
    "a header in Latin-1": _bad(
        b">a\nMKV\n>prot\xe9ine b\nMKV\n",
        "a.fasta, line 3: the id is not UTF-8 (byte 6); convert the file to UTF-8",
    ),
    "half of a surrogate pair": _bad(
        b">a\xed\xa0\x80\nMKV\n",
        "a.fasta, line 1: the id is not UTF-8 (byte 3); convert the file to UTF-8",
    ),
    "an overlong encoding": _bad(
        b">\xc0\xaf\nMKV\n",
        "a.fasta, line 1: the id is not UTF-8 (byte 2); convert the file to UTF-8",
    ),
    "an id that is used twice": _bad(
        b">a\nMKV\n>b\nLLL\n>a two\nMKV\n",
        "a.fasta, line 5, record 'a': this id was already used in a.fasta, line 1; rename one, "
        "or set `ids: whole-header` where whole headers differ",
    ),
    "an id that is used twice, by file": _bad(
        b">a\nMKV\n>a\nMKL\n",
        "a.fasta, line 3, record 'a.fasta:a': this id was already used in a.fasta, line 1; "
        "rename one",
        ids="file:header",
    ),
    "an id in two files": _bad(
        {"a.fasta": b">x\nMKV\n>a\nMKV\n", "b.fasta": b"\n>a\nMKV\n"},
        "b.fasta, line 2, record 'a': this id was already used in a.fasta, line 3; rename "
        "one, or set `ids: file:header`",
    ),
    "an id in two files of one name": _bad(
        {"1/a.fasta": b">a\nMKV\n", "2/a.fasta": b">a\nLLL\n"},
        "2/a.fasta, line 1, record 'a.fasta:a': this id was already used in 1/a.fasta, "
        "line 1; rename one of the records, or files",
        ids="file:header",
    ),
    "an id that is used twice, with hostile letters": _bad(
        ">$(id)`'\"\u202e\x1b[2J a\nMKV\n".encode() * 2,
        "a.fasta, line 3, record '$(id)`\\'\"\\u202e\\x1b[2J': this id was already used in "
        "a.fasta, line 1; rename one, or set `ids: whole-header` where whole headers differ",
    ),
    "an id that is too long with the file before it": _bad(
        b">" + b"i" * 1020 + b"\nMKV\n",
        "a.fasta, line 1, record 'iiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiii': `ids: "
        "file:header` makes an id over 1,024 bytes; shorten the header",
        ids="file:header",
    ),
    "a residue that ESM-2 does not know": _bad(
        b">a\nMKV\n>b\nMKJ\n",
        "the model does not know 1 residue of 1 sequence ('J' 1); set `embedding: "
        "{invalid_residues: unk}` to have them read as its unknown token, or `skip` to "
        "leave these sequences out (after --config: 'embedding={invalid_residues: unk}'); "
        "the first: a.fasta, line 3, record 'b': 'J' at 3",
    ),
    "a stop within a protein": _bad(
        b">a\nMK*V*\n",
        "the model does not know 1 residue of 1 sequence ('*' 1); set `embedding: "
        "{invalid_residues: unk}` to have them read as its unknown token, or `skip` to "
        "leave these sequences out (after --config: 'embedding={invalid_residues: unk}'); "
        "a stop may only end a sequence, which can be cut there; the first: a.fasta, line "
        "1, record 'a': '*' at 3",
    ),
    "numbers between residues, as GenBank has them": _bad(
        b">a\n1 mkvlw 5\n6 mkv 8\n",
        "a.fasta, line 2, record 'a': '1 mkvlw 5' cannot be residues of protein, for '1'; correct "
        "the line, or remove it",
    ),
    "a letter that is not ASCII": _bad(
        ">a\nMKVÄ\n",
        "a.fasta, line 2, record 'a': 'MKVÄ' cannot be residues of protein, for U+00C4 LATIN "
        "CAPITAL LETTER A WITH DIAERESIS; correct the line, or remove it",
    ),
    "nothing that can be embedded": _bad(
        b">a\nMJ\n>b\nJ\n",
        "`invalid_residues: skip` leaves no sequence to embed: the model does not know 2 "
        "residues of 2 sequences ('J' 2); set `embedding: {invalid_residues: unk}` to have "
        "them read as its unknown token (after --config: 'embedding={invalid_residues: "
        "unk}'); the first: a.fasta, line 1, record 'a': 'J' at 2; a.fasta, line 3, record "
        "'b': 'J' at 1",
        asked="skip",
    ),
    "N in DNA": _bad(
        b">a\nACGTNN\n",
        "sequences hold N, as contigs often do: the model does not know 2 residues of 1 "
        "sequence ('N' 2); set `embedding: {invalid_residues: unk}` to have them read as "
        "its unknown token, or `skip` to leave these sequences out (after --config: "
        "'embedding={invalid_residues: unk}'); the first: a.fasta, line 1, record 'a': 'N' "
        "at 5 (2 such)",
        molecule="DNA",
    ),
    "RNA for a model of DNA": _bad(
        b">a\nACGU\n",
        "the model does not know 1 residue of 1 sequence ('U' 1); set `embedding: "
        "{invalid_residues: unk}` to have them read as its unknown token, or `skip` to "
        "leave these sequences out (after --config: 'embedding={invalid_residues: unk}'); "
        "RNA can be written with T for U; the first: a.fasta, line 1, record 'a': 'U' at 4",
        molecule="DNA",
    ),
    "proteins for a model of DNA": _bad(
        b">a\n" + b"MKVLWEDRSTAGQIPFYNHC" * 5 + b"\n",
        "a.fasta: looks like proteins (30% of its 100 letters are in EFILPQ, which only "
        "amino acids are); a model of DNA needs nucleotides: give genes, contigs or "
        "genomes, or choose a protein model",
        molecule="DNA",
        asked="skip",
    ),
    "DNA for a model of proteins": _bad(
        b">a\n" + b"ACGTN" * 20 + b"\n",
        "a.fasta: looks like DNA or RNA (100% of its 100 letters are in ACGTUN); a protein "
        "model needs proteins: translate the sequences first, or choose a model of DNA; of "
        "proteins that are so, set `suspicious: allow` (after --config: suspicious=allow)",
        asked="unk",
    ),
    "the second of two files": _bad(
        {"a.fasta": b">a\nMKV\n", "b.fasta": b">b\n"},
        "b.fasta, line 1, record 'b': has no residues; remove the record or add its sequence",
    ),
    "a file that is not there": _bad(
        {},
        "none.fasta: matches no file; correct the path or the pattern",
        patterns=("none.fasta",),
    ),
    "a pattern that matches nothing": _bad(
        {"a.fasta": b">a\nMKV\n"},
        "*.faa: matches no file; correct the path or the pattern",
        patterns=("a.fasta", "*.faa"),
    ),
}
