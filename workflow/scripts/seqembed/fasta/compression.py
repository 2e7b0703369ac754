"""The decompressed bytes of a file: plain, or gzip, bzip2, xz or zstd of one stream or several.

A file that was cut, or whose bytes are damaged, is an error. Where it was cut just between two
streams nothing is missing that a decompressor could know of; see `_refuse_cut_between`.
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
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from seqembed.errors import FastaError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# What a file of each kind begins with. Parallel zstd begins with a frame that is to be skipped.
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
# bgzip writes its size into each block, and this empty one at the end of the file.
_BGZIP_BLOCK = re.compile(rb"\x1f\x8b\x08\x04.{6}\x06\0BC\x02\0", re.DOTALL)
_BGZIP_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
# Programs that compress in parallel cut their input into pieces of a multiple of one of these.
_PIECES = (100_000, 1 << 16)


def read_chunks(path: str | Path, chunk_bytes: int) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file, `chunk_bytes` or fewer at a time.

    Raises FastaError for a file that cannot be read, is cut or is damaged, when all bytes before
    that place were yielded.
    """
    with _open(path) as plain:
        begin = plain.read(_KIND_BYTES)
        plain.seek(0)
        kind = compression_of(begin)
        if kind is None:
            yield from _read_whole(plain, chunk_bytes)
            return
        with _named(kind, path):
            if kind == "gzip":
                _refuse_cut_bgzip(plain, path)
                unpacked = cast(IO[bytes], gzip.GzipFile(fileobj=plain))
                yield from _read_whole(unpacked, chunk_bytes)
            else:
                yield from _unpack(plain, path, kind, chunk_bytes)


def compression_of(begin: bytes) -> str | None:
    """The kind of compression that a file with these first bytes has; None if it has none."""
    return next((kind for magic, kind in _KINDS.items() if magic.match(begin)), None)


@contextmanager
def _open(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a file; FastaError where it cannot be opened or read."""
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        message = f"cannot be read ({error.strerror or error}); check the path and its permissions"
        raise FastaError(message, path=path) from error


@contextmanager
def _named(kind: str, path: str | Path) -> Iterator[None]:
    """Turn what decompressors raise into FastaError."""
    try:
        yield
    except EOFError as error:
        raise FastaError(f"the {kind} file is truncated; copy it again", path=path) from error
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstd.ZstdError) as error:
        raise _corrupt(kind, path, error) from error
    except OSError as error:
        # The system's own have a number; without one it is bzip2's.
        if error.errno is not None:
            raise
        raise _corrupt(kind, path, error) from error


def _corrupt(kind: str, path: str | Path, error: Exception) -> FastaError:
    return FastaError(f"the {kind} file is corrupt ({error}); copy it again", path=path)


def _read_whole(file: IO[bytes], chunk_bytes: int) -> Iterator[bytes]:
    while chunk := file.read(chunk_bytes):
        yield chunk


def _refuse_cut_bgzip(plain: IO[bytes], path: str | Path) -> None:
    """Raise FastaError for a file of bgzip that was cut between two blocks, which gzip accepts."""
    if _BGZIP_BLOCK.match(plain.read(16)):
        plain.seek(-min(len(_BGZIP_END), os.fstat(plain.fileno()).st_size), os.SEEK_END)
        if plain.read() != _BGZIP_END:
            message = "lacks the end that bgzip writes, so it is truncated; copy it again, or"
            raise FastaError(f"{message} compress it anew if it is complete", path=path)
    plain.seek(0)


def _unpack(file: IO[bytes], path: str | Path, kind: str, chunk_bytes: int) -> Iterator[bytes]:
    """Yield what the streams of a file hold, one after the other.

    Not by bz2.open and lzma.open: these pass over whatever follows the first stream in silence
    where it is no stream.
    """
    sizes: list[int] = []
    last = b""
    data = file.read(chunk_bytes)
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
        data = _skip_padding(file, stream.unused_data, chunk_bytes)
    _refuse_cut_between(path, kind, sizes, last)


def _skip_padding(file: IO[bytes], data: bytes, chunk_bytes: int) -> bytes:
    """What follows a stream, without the zeros that may stand before the next one."""
    data = data.lstrip(b"\0")
    while not data and (more := file.read(chunk_bytes)):
        data = more.lstrip(b"\0")
    return data


def _refuse_cut_between(path: str | Path, kind: str, sizes: list[int], last: bytes) -> None:
    """Raise FastaError where streams seem to be missing at the end of a file.

    sizes: bytes that each stream holds. Programs that compress in parallel cut their input into
    equal pieces, a stream each, and the last one is smaller. Where the last one is as large as the
    others, and ends within a line, the file goes on elsewhere.
    """
    if not sizes or last == b"\n":
        return
    whole = sizes[-1] == sizes[0] if len(sizes) > 1 else any(sizes[0] % n == 0 for n in _PIECES)
    if whole:
        raise FastaError(
            f"the {kind} file ends within a line, just where one of its streams ends, so it is "
            "truncated; copy it again, or end its text with a line break if it is complete",
            path=path,
        )
