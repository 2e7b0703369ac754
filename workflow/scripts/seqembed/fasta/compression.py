"""Read plain files, and files that gzip, bzip2, xz or zstd compressed in one stream or several.

Decompressors do not notice that a file was cut exactly between two streams; `_refuse_cut_bgzip` and
`_unpack` find such files.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from seqembed.errors import FastaError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# The first bytes of each kind. Parallel zstd may write a skippable frame first.
_KINDS = {
    re.compile(rb"\x1f\x8b"): "gzip",
    re.compile(rb"BZh[1-9]"): "bzip2",
    re.compile(rb"\xfd7zXZ\0"): "xz",
    re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"): "zstd",
}
_KIND_BYTES = 6
_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ),
    "zstd": zstd.ZstdDecompressor,
}
# bgzip writes the size of each block into the block's header, and ends a file by an empty block.
_BGZIP_BLOCK = re.compile(rb"\x1f\x8b\x08\x04.{6}\x06\0BC\x02\0", re.DOTALL)
_BGZIP_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
# Programs that compress in parallel cut their input into pieces; the size of a piece in bytes is a
# multiple of one of these numbers.
_PIECES = (100_000, 1 << 16)


def read_chunks(
    path: str | Path, chunk_bytes: int, tell: Callable[[int], None] = lambda position: None
) -> Iterator[bytes]:
    """Yield the bytes of a file, decompressed if the file is compressed, in chunks.

    chunk_bytes: the largest size of a chunk. tell: called with each chunk's end in the file, in
    compressed bytes if the file is compressed. Raises FastaError if the file cannot be read, is
    truncated or is damaged; all chunks before the fault are yielded first.
    """
    kind = None
    try:
        with open(path, "rb") as file:
            kind = compression_of(file.peek(_KIND_BYTES))
            if kind in _DECOMPRESSORS:
                for chunk in _unpack(file, path, kind, chunk_bytes):
                    tell(file.tell())
                    yield chunk
                return
            if kind == "gzip":
                _refuse_cut_bgzip(file, path)
            plain = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if kind == "gzip" else file
            while chunk := plain.read(chunk_bytes):
                tell(file.tell())
                yield chunk
    except EOFError as error:
        raise FastaError(f"the {kind} file is truncated; copy it again", path=path) from error
    except (OSError, zlib.error, lzma.LZMAError, zstd.ZstdError) as error:
        message = f"the {kind} file is corrupt ({error}); copy it again"
        # An OSError of the system has a number, an OSError of a decompressor has none.
        if isinstance(error, OSError) and error.errno is not None:
            message = f"cannot be read ({error.strerror}); check the path and its permissions"
        raise FastaError(message, path=path) from error


def compression_of(begin: bytes) -> str | None:
    """Return "gzip", "bzip2", "xz" or "zstd" from a file's first bytes; None if it is plain."""
    return next((kind for magic, kind in _KINDS.items() if magic.match(begin)), None)


def _refuse_cut_bgzip(file: IO[bytes], path: str | Path) -> None:
    """Raise FastaError for a bgzip file that was cut between two blocks; gzip would accept it."""
    if _BGZIP_BLOCK.match(file.read(16)):
        file.seek(-min(len(_BGZIP_END), os.fstat(file.fileno()).st_size), os.SEEK_END)
        if file.read() != _BGZIP_END:
            message = "lacks the end that bgzip writes, so it seems to be truncated; copy it again,"
            raise FastaError(f"{message} or, if it is complete, compress it anew", path=path)
    file.seek(0)


def _unpack(file: IO[bytes], path: str | Path, kind: str, chunk_bytes: int) -> Iterator[bytes]:
    """Yield the decompressed bytes of all streams of a file, at most `chunk_bytes` at a time.

    kind: "bzip2", "xz" or "zstd". Raises the decompressor's error if the bytes after a stream are
    neither zeros nor another stream; bz2.open and lzma.open would ignore these bytes. Raises
    FastaError if streams seem to be missing at the end of the file.
    """
    sizes: list[int] = []  # the number of decompressed bytes of each stream
    data, last = file.read(chunk_bytes), b""
    while data:
        stream, size = _DECOMPRESSORS[kind](), 0
        while not stream.eof:
            if stream.needs_input and not data:
                data = file.read(chunk_bytes)
                if not data:
                    raise EOFError
            fed, data = (data, b"") if stream.needs_input else (b"", data)
            if chunk := stream.decompress(fed, chunk_bytes):
                yield chunk
                size, last = size + len(chunk), chunk[-1:]
        if size:
            sizes.append(size)
        # Zeros may fill the space between two streams.
        data = stream.unused_data.lstrip(b"\0")
        while not data and (more := file.read(chunk_bytes)):
            data = more.lstrip(b"\0")
    # Programs that compress in parallel write a stream for each piece: equal pieces, then a smaller
    # one. If the last piece is as large as the first and ends within a line, more pieces followed.
    single = len(sizes) == 1 and any(sizes[0] % size == 0 for size in _PIECES)
    if last != b"\n" and (single or (len(sizes) > 1 and sizes[-1] == sizes[0])):
        message = f"the {kind} file ends within a line of text, so it seems to be truncated; copy "
        message += "it again, or, if it is complete, end its text with a line break and compress it"
        raise FastaError(f"{message} anew", path=path)
