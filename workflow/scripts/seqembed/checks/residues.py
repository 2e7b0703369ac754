"""Check FASTA files for residues that a model does not know, for gaps, and for other text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seqembed.checks.file_check import FileCheck
from seqembed.errors import ResidueError, count_of, shorten
from seqembed.fasta.faults import name_character
from seqembed.fasta.reader import read_batches
from seqembed.fasta.records import GAPS, Record, Records
from seqembed.models.families import Molecule

InvalidResidues = Literal["error", "unk", "skip"]
Gaps = Literal["error", "remove", "keep"]
Suspicious = Literal["error", "allow"]

SHOWN_PLACES, SHOWN_KINDS = 10, 5
SHOWN_PATH = 200
_NO_GAPS = bytes(byte for byte in range(256) if byte not in GAPS)
_HINTS = {
    ("protein", "*"): "`*` is a stop, which may only end a sequence: cut the sequence there",
    ("DNA", "U"): "in RNA, write T in place of each U",
}


@dataclass(frozen=True, slots=True)
class Unknown:
    """The characters of a sequence that the model does not know.

    characters: all of them, in order. position: where the first one is in the sequence, from 1.
    """

    characters: str
    position: int

    def __str__(self) -> str:
        return f"{name_character(self.characters[0])} at {self.position:,}"


def find_unknown(residues: bytes, letters: bytes) -> Unknown | None:
    """Return the characters of a sequence other than `letters`; None if there are none."""
    others = residues.translate(None, letters)
    if not others:
        return None
    text = others.decode(errors="surrogateescape")
    return Unknown(text, residues.index(others[:1]) + 1)


class Tally:
    """Counts the characters other than `letters` in sequences, in constant memory.

    noun: what a message calls these characters. sequences: how many sequences hold such
    characters. counts: how often each of them was found.
    """

    def __init__(self, letters: bytes, noun: str) -> None:
        self.letters, self.sequences = letters, 0
        self.counts: Counter[str] = Counter()
        self._noun = noun
        self._places: list[str] = []

    def add(self, path: Path, record: Record) -> Unknown | None:
        """Count and return a record's characters other than `letters`; None if there are none."""
        if unknown := find_unknown(record.residues, self.letters):
            self.sequences += 1
            self.counts.update(unknown.characters)
            if len(self._places) < SHOWN_PLACES:
                shown, file = shorten(record.sequence_id), str(path)
                file = "..." * (len(file) > SHOWN_PATH) + file[-SHOWN_PATH:]
                count = len(unknown.characters)
                more = f" ({count:,} in this record)" if count > 1 else ""
                place = f"{file}, line {record.line}, record {shown!r}: {unknown}{more}"
                self._places.append(place)
        return unknown

    @property
    def amounts(self) -> str:
        """Text for a message: how many characters, in how many sequences, and which most often."""
        kinds = self.counts.most_common(SHOWN_KINDS)
        shown = ", ".join(f"{count:,} x {name_character(letter)}" for letter, count in kinds)
        more = ", ..." if len(self.counts) > SHOWN_KINDS else ""
        characters = count_of(self.counts.total(), self._noun)
        return f"{characters} in {count_of(self.sequences, 'sequence')} ({shown}{more})"

    @property
    def first(self) -> str:
        """Text for a message: the first ten places, each with file, line, record and position."""
        return "; the first: " + "; ".join(self._places)


class ResidueCheck:
    """Reads the files of a dataset for one model, and counts the residues unknown to the model.

    letters: the residues that the model knows. invalid_residues: what to do with other residues.
    gaps: what to do with `-` and `.`. suspicious: what to do with records that look like something
    else than sequences. Memory is constant.
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
        self.gaps, self._suspicious = gaps, suspicious
        self._molecule, self._asked = molecule, invalid_residues
        self._records = 0
        self._gaps = Tally(_NO_GAPS, "gap")
        self._has_gaps = any(gap in letters for gap in GAPS)
        # Gaps that are refused do not count as unknown residues.
        self._unknown = Tally(letters + (GAPS if gaps == "error" else b""), "residue")

    def read(
        self, path: Path, tell: Callable[[int], None] = lambda position: None
    ) -> Iterator[tuple[Records, list[str | None]]]:
        """Yield records, and for each of them why it is left out; None if it is not left out.

        tell: called with the position in the file, in bytes, as often as some are read.

        Raises FastaError for a fault of the file, and at its end if a record or the file looks like
        something else than sequences of the molecule: use no record before the end.
        """
        file = FileCheck(
            path,
            self._molecule,
            impossible=self._asked != "skip",
            gaps_kept=self.gaps == "keep",
            suspicious=self._suspicious == "error",
        )
        for records in read_batches(path, without_gaps=self.gaps == "remove", tell=tell):
            text = b"".join(records.residues)
            file.look(records, text)
            if self.gaps == "error":
                for number in records.odd:
                    self._gaps.add(path, records[number])
            self._records += len(records)
            reasons: list[str | None] = [None] * len(records)
            if text.translate(None, self._unknown.letters):
                for number, record in enumerate(records):
                    unknown = self._unknown.add(path, record)
                    if unknown and self._asked == "skip":
                        such = f"({len(unknown.characters):,} such)"
                        reasons[number] = f"residue {unknown} is unknown to the model {such}"
            yield records, reasons
        file.finish()

    def finish(self) -> None:
        """Raise ResidueError if the settings refuse gaps or residues; call this after all files."""
        if self._gaps.sequences:
            message = f"the files hold {self._gaps.amounts}, as in an alignment; set `gaps: remove`"
            message += " to have them taken out (after --config: gaps=remove)"
            if self._has_gaps:
                message += ", or `gaps: keep` to embed them as the model's gap token"
            raise ResidueError(f"{message}{self._gaps.first}")
        refused = self._unknown.sequences
        if refused and self._asked == "error":
            raise self._error("")
        if refused == self._records > 0 and self._asked == "skip":
            raise self._error("`invalid_residues: skip` leaves no sequence to embed: ")

    def summary(self) -> str | None:
        """Return a sentence on the residues that the model does not know; None if it knows all."""
        unknown = self._unknown
        if not unknown.sequences:
            return None
        found = f"the model does not know {unknown.amounts}"
        if self._asked == "skip":
            left_out = f"{unknown.sequences:,} of {self._records:,} sequences are left out"
            return f"{left_out}: {found}{unknown.first}"
        return f"{found}; they are read as its unknown token{unknown.first}"

    def _error(self, problem: str) -> ResidueError:
        found = self._unknown.counts
        contigs = self._molecule == "DNA" and "N" in found
        opening = "sequences hold N, as contigs often do: " if contigs else ""
        skip = ", or `skip` to leave these sequences out" if self._asked == "error" else ""
        message = f"{opening}{problem}the model does not know {self._unknown.amounts}; set "
        message += "`embedding: {invalid_residues: unk}` to embed them as the model's unknown token"
        message += f"{skip} (after --config: 'embedding={{invalid_residues: unk}}')"
        hints = [_HINTS[key] for letter in found if (key := (self._molecule, letter)) in _HINTS]
        return ResidueError("; ".join([message, *hints]) + self._unknown.first)
