"""Residues as a model reads them: what it does not know, and files of the other molecule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from seqembed.errors import FastaError, ResidueError
from seqembed.fasta import read_batches
from seqembed.models.families import Molecule
from seqembed.records import Record, Records

InvalidResidues = Literal["error", "unk", "skip"]

SHOWN_PLACES = 10
SHOWN_LETTERS = 5
SHOWN_ID, SHOWN_PATH = 60, 200
# Fewer letters do not tell what a file holds.
MIN_LETTERS = 100
NUCLEOTIDES = b"ACGTUN"
DNA_MIN_SHARE = 0.95
# A third of a usual protein, and none of them one of IUPAC's codes for nucleotides.
AMINO_ACIDS_ALONE = b"EFILPQ"
PROTEIN_MIN_SHARE = 0.1

_HINTS = {
    ("protein", ord("*")): "a stop may only end a sequence, which can be cut there",
    ("DNA", ord("U")): "RNA can be written with T for U",
}


@dataclass(frozen=True, slots=True)
class Unknown:
    """What a model does not know of a sequence: `count` residues, the first of them the byte
    `letter` at `position` (from 1)."""

    letter: int
    position: int
    count: int

    def __str__(self) -> str:
        return f"{_name(self.letter)} at {self.position:,}"


def find_unknown(residues: bytes, letters: bytes) -> Unknown | None:
    """What of the residues is not among `letters`."""
    others = residues.translate(None, letters)
    if not others:
        return None
    return Unknown(others[0], residues.index(others[:1]) + 1, len(others))


class ResidueCheck:
    """Reads files for one model, and counts what it does not know in them.

    letters: the residues that the model knows; invalid_residues: what becomes of others. Raises
    ValueError for what that cannot be. Memory does not grow with what is found.
    """

    def __init__(self, letters: bytes, molecule: Molecule, invalid_residues: InvalidResidues):
        if invalid_residues not in get_args(InvalidResidues):
            choices = ", ".join(get_args(InvalidResidues))
            raise ValueError(f"invalid_residues must be one of {choices}, not {invalid_residues!r}")
        self._letters, self._molecule, self._asked = letters, molecule, invalid_residues
        foreign = NUCLEOTIDES if molecule == "protein" else AMINO_ACIDS_ALONE
        self._foreign = bytes(byte in foreign for byte in range(256))
        self._records = self._sequences = 0
        self._counts: Counter[int] = Counter()
        self._places: list[str] = []

    def read(self, path: Path) -> Iterator[tuple[Records, list[str | None]]]:
        """Yield records of a file, and for each the reason to leave it out, if there is one.

        Raises FastaError as read_batches does, and, at the end, where the file holds the other
        molecule: nothing counts until the iterator is exhausted.
        """
        total = foreign = 0
        for records in read_batches(path):
            text = b"".join(records.residues)
            total += len(text)
            # Faster than to delete these letters, which are everywhere.
            marks = np.frombuffer(text.translate(self._foreign), np.bool_)
            foreign += int(np.count_nonzero(marks))
            yield records, self._exclude_all(path, records, text)
        _refuse_other_molecule(path, self._molecule, total, foreign)

    def finish(self) -> None:
        """Raise ResidueError, after the last file, where what was found allows no way on."""
        if self._sequences and self._asked == "error":
            raise ResidueError(self._opening() + self._found() + self._advice() + self._first())
        if self._sequences == self._records > 0 and self._asked == "skip":
            message = f"{self._opening()}`invalid_residues: skip` leaves no sequence to embed: "
            raise ResidueError(message + self._found() + self._advice() + self._first())

    def summary(self) -> str | None:
        """What became of residues that the model does not know; None where there are none."""
        if not self._sequences:
            return None
        if self._asked == "skip":
            what = f"{self._sequences:,} of {self._records:,} sequences are left out: "
            return what + self._found() + self._first()
        return f"{self._found()}; they are read as its unknown token{self._first()}"

    def _exclude_all(self, path: Path, records: Records, text: bytes) -> list[str | None]:
        """Count records, of which `text` is all residues; return the reasons to leave them out."""
        self._records += len(records)
        if not text.translate(None, self._letters):
            return [None] * len(records)
        return [self._exclude(path, record) for record in records]

    def _exclude(self, path: Path, record: Record) -> str | None:
        unknown = find_unknown(record.residues, self._letters)
        if not unknown:
            return None
        self._sequences += 1
        self._counts.update(record.residues.translate(None, self._letters))
        if len(self._places) < SHOWN_PLACES:
            self._places.append(_place(path, record, unknown))
        if self._asked != "skip":
            return None
        return f"residue {unknown} is unknown to the model ({unknown.count:,} such)"

    def _opening(self) -> str:
        if self._molecule == "DNA" and ord("N") in self._counts:
            return "sequences hold N, as contigs often do: "
        return ""

    def _found(self) -> str:
        kinds = self._counts.most_common(SHOWN_LETTERS)
        shown = ", ".join(f"{_name(letter)} {count:,}" for letter, count in kinds)
        more = ", ..." if len(self._counts) > SHOWN_LETTERS else ""
        residues = _amount(self._counts.total(), "residue")
        sequences = _amount(self._sequences, "sequence")
        return f"the model does not know {residues} of {sequences} ({shown}{more})"

    def _advice(self) -> str:
        unk = "set `embedding: {invalid_residues: unk}` to have them read as its unknown token"
        skip = ", or `skip` to leave these sequences out" if self._asked == "error" else ""
        on_command_line = " (after --config: 'embedding={invalid_residues: unk}')"
        hints = [
            _HINTS[key] for letter in self._counts if (key := (self._molecule, letter)) in _HINTS
        ]
        return "; ".join([f"; {unk}{skip}{on_command_line}", *hints])

    def _first(self) -> str:
        return f"; the first: {'; '.join(self._places)}"


def _place(path: Path, record: Record, unknown: Unknown) -> str:
    sequence_id, name = record.sequence_id, str(path)
    shown = sequence_id[:SHOWN_ID] + "..." * (len(sequence_id) > SHOWN_ID)
    file = "..." * (len(name) > SHOWN_PATH) + name[-SHOWN_PATH:]
    such = f" ({unknown.count:,} such)" if unknown.count > 1 else ""
    return f"{file}, line {record.line}, record {shown!r}: {unknown}{such}"


def _name(letter: int) -> str:
    return repr(chr(letter)) if 32 < letter < 127 else f"byte 0x{letter:02x}"


def _amount(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _refuse_other_molecule(path: Path, molecule: Molecule, total: int, foreign: int) -> None:
    """Raise FastaError for a file of which `foreign` letters of `total` show another molecule."""
    if total < MIN_LETTERS:
        return
    share = f"{100 * foreign / total:.0f}% of its {total:,} letters are in"
    if molecule == "protein" and foreign >= DNA_MIN_SHARE * total:
        message = f"looks like DNA or RNA ({share} {NUCLEOTIDES.decode()}); a protein model needs "
        message += "proteins: translate the sequences first, or choose a model of DNA"
        raise FastaError(message, path=path)
    if molecule == "DNA" and foreign >= PROTEIN_MIN_SHARE * total:
        message = f"looks like proteins ({share} {AMINO_ACIDS_ALONE.decode()}, which only amino "
        message += "acids are); a model of DNA needs nucleotides: give genes, contigs or genomes, "
        raise FastaError(message + "or choose a protein model", path=path)
