"""Compute, compare and find digests of sequences, 16 bytes each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def digest(residues: bytes) -> bytes:
    """Return the digest of a sequence: 16 bytes of blake2b."""
    return digest_all([residues])[0]


def digest_all(sequences: Iterable[bytes]) -> list[bytes]:
    """Return the digest of each sequence."""
    make = hashlib.blake2b
    return [make(residues, digest_size=16).digest() for residues in sequences]


def to_hex(digests: NDArray[np.uint8]) -> list[str]:
    """Return (n, 16) digests as n strings of 32 hex characters."""
    text = np.ascontiguousarray(digests).tobytes().hex()
    return [text[begin : begin + 32] for begin in range(0, len(text), 32)]


def from_hex(texts: Iterable[str]) -> NDArray[np.uint8]:
    """Return hex digests as (n, 16) uint8."""
    return digest_rows([bytes.fromhex("".join(texts))])


class DigestIndex:
    """Finds the rows of digests in an (n, 16) uint8 array; takes 24 bytes of memory a digest."""

    def __init__(self, digests: NDArray[np.uint8]) -> None:
        first, second = _halves(digests)
        self._order = _order(first, second)
        self._first, self._second = first[self._order], second[self._order]

    def find(self, digests: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the first row that has each of (n, 16) digests, (n,) int64; -1 for none."""
        first, second = _halves(digests)
        if not len(self._order):
            return np.full(len(first), -1, np.int64)
        last = len(self._order) - 1
        places = np.empty(len(first), np.int64)
        # In ascending order the search stays within the cache: a fourth of the time.
        ascending = np.argsort(first)
        places[ascending] = np.searchsorted(self._first, first[ascending]).clip(max=last)
        # Halves are found in a third of the time of digests, and two hardly ever share one.
        while True:
            same = self._first[places] == first
            before = same & (self._second[places] < second) & (places < last)
            if not before.any():
                return np.where(same & (self._second[places] == second), self._order[places], -1)
            places[before] += 1


def count_distinct(digests: NDArray[np.uint8]) -> int:
    """Return how many of (n, 16) digests are distinct."""
    first, second = _halves(digests)
    order = _order(first, second)
    changes = (np.diff(first[order]) != 0) | (np.diff(second[order]) != 0)
    return int(changes.sum()) + min(1, len(order))


def first_rows(digests: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return, for each of (n, 16) digests, the first row with the same digest, (n,) int64."""
    return DigestIndex(digests).find(digests)


def digest_rows(keys: Iterable[bytes]) -> NDArray[np.uint8]:
    """Return n digests of 16 bytes each as (n, 16) uint8."""
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)


def _halves(digests: NDArray[np.uint8]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the first and the second halves of (n, 16) digests, each (n,) uint64."""
    halves = np.ascontiguousarray(digests).view(np.uint64)
    return np.ascontiguousarray(halves[:, 0]), np.ascontiguousarray(halves[:, 1])


def _order(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the order that sorts digests, given as halves, stably: (n,) rows."""
    order = np.argsort(first)
    ascending = first[order]
    # One half sorts in a fifth of the time of two, and two digests hardly ever share one.
    if (ascending[1:] == ascending[:-1]).any():
        return np.lexsort((second, first))
    return order
