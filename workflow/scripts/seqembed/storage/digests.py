"""Compute the digests of sequences, 16 bytes each, and find rows by digest."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

# How many digests are looked for at once.
FIND_AT_ONCE = 1 << 20


def digest(residues: bytes) -> bytes:
    """Return the digest of a sequence: 16 bytes of blake2b."""
    return digest_all([residues])[0]


def digest_all(sequences: Iterable[bytes]) -> list[bytes]:
    """Return the digests of n sequences in their order, 16 bytes of blake2b each."""
    return [blake2b(residues, digest_size=16).digest() for residues in sequences]


def digest_ids(ids: Iterable[str]) -> NDArray[np.uint8]:
    """Return the digests of n ids, (n, 16) uint8, by which a row is found without its text."""
    return digest_rows(digest_all(name.encode() for name in ids))


def to_hex(digests: NDArray[np.uint8]) -> list[str]:
    """Return (n, 16) uint8 digests as n strings of 32 hex characters."""
    return digests.tobytes().hex(" ", 16).split()


def from_hex(texts: Iterable[str]) -> NDArray[np.uint8]:
    """Return n digests of 32 hex characters as (n, 16) uint8; ValueError for other characters."""
    return digest_rows([bytes.fromhex("".join(texts))])


class DigestIndex:
    """Finds digests in an (n, 16) uint8 array of digests; takes 24 bytes of memory a row."""

    def __init__(self, digests: NDArray[np.uint8]) -> None:
        # The first and the second 8 bytes of each digest.
        first, second = np.ascontiguousarray(digests).view(np.uint64).T.copy()
        self._order = np.argsort(first)
        self._first = first[self._order]
        # Rows that share a first half are sorted by both; to sort all rows so takes longer.
        same, shared = self._first[1:] == self._first[:-1], np.zeros(len(first), bool)
        shared[1:] |= same
        shared[:-1] |= same
        rows = np.sort(self._order[shared])
        self._order[shared] = rows[np.lexsort((second[rows], first[rows]))]
        self._second = second[self._order]

    def find(self, digests: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return for each digest, (m, 16) uint8, the first row that has it, or -1: (m,) int64."""
        first, second = np.ascontiguousarray(digests).view(np.uint64).T.copy()
        if not len(self._order):
            return np.full(len(first), -1, np.int64)
        last = len(self._order) - 1
        places = np.empty(len(first), np.int64)
        # A search in ascending order stays within the CPU's cache, and takes a fourth of the time.
        ascending = np.argsort(first)
        places[ascending] = np.searchsorted(self._first, first[ascending]).clip(max=last)
        # To find first halves takes a third of the time of whole digests.
        while True:
            same = self._first[places] == first
            before = same & (self._second[places] < second) & (places < last)
            if not before.any():
                return np.where(same & (self._second[places] == second), self._order[places], -1)
            places[before] += 1

    def find_in(self, digests: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return for each row of the index the first row in `digests` that has its digest, or -1.

        The index's n digests have to be distinct; the result is (n,) int64. digests: (m, 16) uint8,
        of a file with perhaps many more sequences: the memory grows with n, not with m.
        """
        found = np.full(len(self._order), -1, np.int64)
        # From the end, so that of rows with the same digest the first one is written last.
        for start in reversed(range(0, len(digests), FIND_AT_ONCE)):
            places = self.find(digests[start : start + FIND_AT_ONCE])
            rows = np.flatnonzero(places >= 0)[::-1]
            found[places[rows]] = rows + start
        return found

    def sorted_rows(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the n rows in the order of their digests, (n,) int64.

        Also return, in this order, whether each is the first row with its digest, (n,) bool.
        """
        changes = (np.diff(self._first) != 0) | (np.diff(self._second) != 0)
        return self._order, np.append(True, changes)[: len(self._order)]


def count_distinct(digests: NDArray[np.uint8]) -> int:
    """Return the number of different digests among (n, 16) uint8 digests."""
    return int(DigestIndex(digests).sorted_rows()[1].sum())


def first_rows(digests: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return for each digest, (n, 16) uint8, the first row that has the same digest: (n,) int64."""
    order, is_first = DigestIndex(digests).sorted_rows()
    rows = np.empty(len(order), np.int64)
    rows[order] = order[is_first][is_first.cumsum() - 1]
    return rows


def join_digests(parts: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return arrays of digests, (n_i, 16) uint8 each, perhaps none, as one array."""
    return np.concatenate([np.empty((0, 16), np.uint8), *parts])


def digest_rows(keys: Iterable[bytes]) -> NDArray[np.uint8]:
    """Return n digests of 16 bytes each as one (n, 16) uint8 array."""
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)
