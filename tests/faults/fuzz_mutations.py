"""Small FASTA files cut from real ones and damaged as files are; all is a function of the seed."""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from random import Random

from fuzz_oracle import BGZIP_END

Mutation = Callable[[Random, bytes], bytes]

MOST_RECORDS, MOST_BYTES = 5, 900
# What stands in files where it should not, and what programs take for something else.
ODDITIES = (
    b"\0|>|\n>|\r>|\n >|>\n|\n>x\n\n|\n\n| |\t|\v|\f|\r|\r\n|\r\r\n|*|**\n|\n;|\n; a comment\n"
    b"|;|-|--|.|.\n|..|\xa0|\xe2\x80\x8b\xe3\x80\x80|\x01|\x1b[2J|\x7f|\xff\xfe|\xef\xbb\xbf|\xc3"
    b"|\xc3\xa9\xe2\x80\xa8\xc2\x85\xe2\x80\xae|$(touch x)`x`'\"|../../x|J|N|U|-|1|\x1f\x8b"
).split(b"|")
LINE_ENDS = [b"\r\n", b"\r", b"\n\r", b"\r\r\n", b"\n\n", b" \n", b""]
PREAMBLES = [b"\n", b" \n\t\n", b"\xef\xbb\xbf", b"; a comment\n", b"@", b"\r\n", b"x\n", b" "]


def cut(random: Random, source: bytes) -> bytes:
    """A few records of a source, or, now and then, a slice of it wherever it falls."""
    if random.random() < 0.03:
        begin = random.randrange(len(source))
        return source[begin : begin + random.randrange(1, MOST_BYTES)]
    starts = [found.start() for found in re.finditer(rb"^>", source, re.MULTILINE)]
    first = random.randrange(len(starts))
    last = first + random.randint(1, MOST_RECORDS)
    most = random.choice([30, 200, MOST_BYTES])
    ends = [*starts[1:], len(source)]
    pieces = zip(starts[first:last], ends[first:last], strict=True)
    mark = random.choice([b"", b"%d." % random.randrange(1000)])
    return b"".join(_shorten(source[begin:end], mark, most) for begin, end in pieces)


def _shorten(record: bytes, mark: bytes, most: int) -> bytes:
    """A record of at most so many letters, its id marked as one of this cut."""
    header, _, body = record.partition(b"\n")
    return b">" + mark + header[1:] + b"\n" + body[:most].strip() + b"\n"


def mutate(random: Random, content: bytes) -> bytes:
    """The content after none to four mutations."""
    for _ in range(random.choice([0, 0, 0, 1, 1, 1, 2, 2, 3, 4])):
        content = random.choice(MUTATIONS)(random, content)
    return content


def wrap(random: Random, content: bytes) -> bytes:
    """The file of this content: plain or some gzip, which may be damaged in its turn."""
    file = random.choice([_plain, _plain, _plain, _one_member, _members, _bgzip])(random, content)
    for _ in range(random.choice([0] * 12 + [1, 2])):
        file = random.choice(DAMAGES)(random, file)
    return file


def _place(random: Random, content: bytes) -> int:
    return random.randint(0, len(content))


def _slice(random: Random, content: bytes) -> tuple[int, int]:
    begin = _place(random, content)
    return begin, min(len(content), begin + random.choice([1, 2, 5, 40, 300]))


def _flip_bit(random: Random, content: bytes) -> bytes:
    if not content:
        return content
    place = random.randrange(len(content))
    flipped = content[place] ^ 1 << random.randrange(8)
    return content[:place] + bytes([flipped]) + content[place + 1 :]


def _insert(random: Random, content: bytes) -> bytes:
    place = _place(random, content)
    return content[:place] + random.choice(ODDITIES) + content[place:]


def _insert_bytes(random: Random, content: bytes) -> bytes:
    place = _place(random, content)
    return content[:place] + random.randbytes(random.randint(1, 4)) + content[place:]


def _insert_at_line(random: Random, content: bytes) -> bytes:
    breaks = [found.end() for found in re.finditer(rb"\n", content)] or [0]
    place = random.choice(breaks)
    return content[:place] + random.choice(ODDITIES) + content[place:]


def _insert_within_residues(random: Random, content: bytes) -> bytes:
    """What a model may not know, but a file may hold."""
    place = content.rfind(b"\n", 0, -1) + 1
    place = random.randint(place, len(content))
    return (
        content[:place] + random.choice([b"J", b"N", b"*", b" ", b"1", b"\xe9"]) + content[place:]
    )


def _delete(random: Random, content: bytes) -> bytes:
    begin, end = _slice(random, content)
    return content[:begin] + content[end:]


def _duplicate(random: Random, content: bytes) -> bytes:
    begin, end = _slice(random, content)
    place = _place(random, content)
    return content[:place] + content[begin:end] + content[place:]


def _swap(random: Random, content: bytes) -> bytes:
    a, b, c = sorted(_place(random, content) for _ in range(3))
    return content[:a] + content[b:c] + content[a:b] + content[c:]


def _truncate(random: Random, content: bytes) -> bytes:
    return content[: _place(random, content)]


def _replace_line_ends(random: Random, content: bytes) -> bytes:
    return content.replace(b"\n", random.choice(LINE_ENDS))


def _replace_one_line_end(random: Random, content: bytes) -> bytes:
    breaks = [found.start() for found in re.finditer(rb"\n", content)]
    if not breaks:
        return content
    place = random.choice(breaks)
    return content[:place] + random.choice(LINE_ENDS) + content[place + 1 :]


def _drop_last_line_end(random: Random, content: bytes) -> bytes:
    return content.rstrip()


def _swap_case(random: Random, content: bytes) -> bytes:
    begin, end = _slice(random, content)
    return content[:begin] + content[begin:end].swapcase() + content[end:]


def _precede(random: Random, content: bytes) -> bytes:
    return random.choice(PREAMBLES) + content


def _stretch_id(random: Random, content: bytes) -> bytes:
    size = random.choice([1000, 1010, 1024, 1025, 4000])
    return content.replace(b">", b">" + b"i" * size, 1)


def _blank_residues(random: Random, content: bytes) -> bytes:
    """One record's residues are gone, but for what is none."""
    head, _, tail = content.rpartition(b"\n>")
    header = tail.partition(b"\n")[0]
    return head + b"\n>" + header + random.choice([b"", b"\n", b"\n \n", b"\n*\n", b"\n**"])


def _wrap_lines(random: Random, content: bytes) -> bytes:
    width = random.randint(1, 70)
    lines = content.split(b"\n")
    pieces = [
        text if text[:1] == b">" else re.sub(rb"(.{%d})" % width, rb"\1\n", text) for text in lines
    ]
    return b"\n".join(pieces)


def _repeat(random: Random, content: bytes) -> bytes:
    """As when a file is appended to itself, or a record's residues to the index's."""
    return content + content


def _rename(random: Random, content: bytes) -> bytes:
    """All ids made distinct, so that equal sequences may stand under several."""
    parts = (content + content).split(b">")
    return parts[0] + b"".join(b">%d_%b" % (n, part) for n, part in enumerate(parts[1:]))


MUTATIONS: list[Mutation] = [_flip_bit, _insert, _insert, _insert_bytes, _insert_at_line, _delete]
MUTATIONS += [_duplicate, _swap, _truncate, _replace_line_ends, _replace_one_line_end]
MUTATIONS += [_drop_last_line_end, _swap_case, _precede, _insert_within_residues]
MUTATIONS += [_insert_within_residues, _wrap_lines, _stretch_id, _blank_residues]
MUTATIONS += [_wrap_lines, _repeat, _rename, _rename]


def _plain(random: Random, content: bytes) -> bytes:
    return content


def _one_member(random: Random, content: bytes) -> bytes:
    member = gzip.compress(content, random.choice([0, 1, 6]), mtime=0)
    if random.random() < 0.3:
        return member[:3] + b"\x08" + member[4:10] + b"a.fasta\0" + member[10:]
    return member


def _pieces(random: Random, content: bytes) -> Sequence[bytes]:
    size = random.randint(1, max(2, len(content) // 2))
    return [content[at : at + size] for at in range(0, len(content), size)][:20]


def _members(random: Random, content: bytes) -> bytes:
    return b"".join(_one_member(random, piece) for piece in _pieces(random, content))


def _bgzip(random: Random, content: bytes) -> bytes:
    blocks = [bgzip_block(piece) for piece in _pieces(random, content)]
    if random.random() < 0.1:
        blocks = blocks[: random.randrange(len(blocks) + 1)]
    return b"".join(blocks) + random.choice([BGZIP_END] * 9 + [b""])


def bgzip_block(content: bytes) -> bytes:
    deflate = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = deflate.compress(content) + deflate.flush()
    head = bytes.fromhex("1f8b08040000000000ff060042430200") + struct.pack("<H", len(body) + 25)
    return head + body + struct.pack("<II", zlib.crc32(content), len(content))


def _follow(random: Random, file: bytes) -> bytes:
    """As where files of several kinds are joined."""
    tails = [bytes(random.randint(1, 40)), b"\x1f", b">x\nMKV\n", gzip.compress(b">y\nACGT\n")]
    return file + random.choice(tails)


DAMAGES: list[Mutation] = [_flip_bit, _truncate, _follow, _delete, _insert_bytes]
