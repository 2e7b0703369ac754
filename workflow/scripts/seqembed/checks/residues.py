"""Residues as a model reads them: what it does not know, and files of the other molecule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

from seqembed.checks.file_check import FileCheck, Suspicious
from seqembed.checks.gaps import GapCheck, Gaps
from seqembed.checks.places import FirstPlaces, find_unknown
from seqembed.errors import ResidueError, count_of
from seqembed.fasta.characters import name_character
from seqembed.fasta.reader import read_batches
from seqembed.fasta.records import Record, Records
from seqembed.models.families import Molecule

InvalidResidues = Literal["error", "unk", "skip"]

SHOWN_LETTERS = 5

_HINTS = {
    ("protein", "'*'"): "a stop may only end a sequence, which can be cut there",
    ("DNA", "'U'"): "RNA can be written with T for U",
}


def _count_characters(text: bytes) -> dict[str, int]:
    """How often each character occurs, by name; a byte that is part of none counts as one."""
    if text.isascii():
        return {name_character(bytes([byte]), 0): count for byte, count in Counter(text).items()}
    letters = Counter(text.decode(errors="surrogateescape"))
    return {
        name_character(letter.encode(errors="surrogateescape"), 0): count
        for letter, count in letters.items()
    }


class ResidueCheck:
    """Reads files for one model, and counts what it does not know in them.

    letters: the residues that the model knows; invalid_residues: what becomes of others; gaps: what
    becomes of `-` and `.`; suspicious: whether what looks like no residues is allowed. Raises
    ValueError for what these cannot be. Memory does not grow with what is found.
    """

    def __init__(
        self,
        letters: bytes,
        molecule: Molecule,
        invalid_residues: InvalidResidues,
        *,
        gaps: Gaps,
        suspicious: Suspicious,
    ) -> None:
        if invalid_residues not in get_args(InvalidResidues):
            choices = ", ".join(get_args(InvalidResidues))
            raise ValueError(f"invalid_residues must be one of {choices}, not {invalid_residues!r}")
        self._letters, self._molecule, self._asked = letters, molecule, invalid_residues
        # Where gaps are refused, the check of gaps speaks of them.
        self._passing = letters + (b"-." if gaps == "error" else b"")
        self._gaps, self._suspicious = GapCheck(gaps), suspicious
        self._records = self._sequences = 0
        self._counts: Counter[str] = Counter()
        self._places = FirstPlaces()

    @property
    def gaps(self) -> Gaps:
        return self._gaps.asked

    def read(self, path: Path) -> Iterator[tuple[Records, list[str | None]]]:
        """Yield records of a file, and for each the reason to leave it out, if there is one.

        Raises FastaError as read_batches does, and, at the end, where the file holds what is no
        sequence of the molecule: nothing counts until the iterator is exhausted.
        """
        file = FileCheck(
            path,
            self._molecule,
            impossible=self._asked != "skip",
            gaps_kept=self.gaps == "keep",
            suspicious=self._suspicious,
        )
        for records in read_batches(path, without_gaps=self.gaps == "remove"):
            text = b"".join(records.residues)
            file.look(records, text)
            self._gaps.look(path, records)
            yield records, self._exclude_all(path, records, text)
        file.finish()

    def finish(self) -> None:
        """Raise ResidueError, after the last file, where what was found allows no way on."""
        self._gaps.finish()
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
        if not text.translate(None, self._passing):
            return [None] * len(records)
        return [self._exclude(path, record) for record in records]

    def _exclude(self, path: Path, record: Record) -> str | None:
        unknown = find_unknown(record.residues, self._passing)
        if not unknown:
            return None
        self._sequences += 1
        self._counts.update(_count_characters(record.residues.translate(None, self._passing)))
        self._places.add(path, record, str(unknown), unknown.count)
        if self._asked != "skip":
            return None
        return f"residue {unknown} is unknown to the model ({unknown.count:,} such)"

    def _opening(self) -> str:
        if self._molecule == "DNA" and "'N'" in self._counts:
            return "sequences hold N, as contigs often do: "
        return ""

    def _found(self) -> str:
        kinds = self._counts.most_common(SHOWN_LETTERS)
        shown = ", ".join(f"{name} {count:,}" for name, count in kinds)
        more = ", ..." if len(self._counts) > SHOWN_LETTERS else ""
        residues = count_of(self._counts.total(), "residue")
        sequences = count_of(self._sequences, "sequence")
        return f"the model does not know {residues} of {sequences} ({shown}{more})"

    def _advice(self) -> str:
        unk = "set `embedding: {invalid_residues: unk}` to have them read as its unknown token"
        skip = ", or `skip` to leave these sequences out" if self._asked == "error" else ""
        on_command_line = " (after --config: 'embedding={invalid_residues: unk}')"
        hints = [_HINTS[key] for name in self._counts if (key := (self._molecule, name)) in _HINTS]
        return "; ".join([f"; {unk}{skip}{on_command_line}", *hints])

    def _first(self) -> str:
        return f"; the first: {self._places}"
