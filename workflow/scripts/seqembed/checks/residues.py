"""Check FASTA files for a model: residues that it does not know, gaps, and other text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from seqembed.checks.file_check import FileCheck, Suspicious
from seqembed.checks.tally import Tally
from seqembed.errors import ResidueError
from seqembed.fasta.reader import read_batches
from seqembed.fasta.records import GAPS, Record, Records
from seqembed.models.families import Molecule

InvalidResidues = Literal["error", "unk", "skip"]
Gaps = Literal["error", "remove", "keep"]

_NO_GAPS = bytes(byte for byte in range(256) if byte not in GAPS)
_HINTS = {
    ("protein", "'*'"): "a stop may only end a sequence, which can be cut there",
    ("DNA", "'U'"): "RNA can be written with T for U",
}


class ResidueCheck:
    """Reads the files of a dataset for one model, and counts the residues that it does not know.

    letters: the residues that the model knows; invalid_residues: what to do with others; gaps: what
    to do with `-` and `.`; suspicious: what to do with what looks like something else. Memory does
    not grow with what is found.
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
        # Refused gaps are counted by themselves.
        self._unknown = Tally(letters + (GAPS if gaps == "error" else b""), "residue")

    def read(self, path: Path) -> Iterator[tuple[Records, list[str | None]]]:
        """Yield batches of records, and for each record the reason to leave it out, or None.

        Raises FastaError as read_batches does. Only at the end of the file it is known whether it
        holds sequences of the molecule, and FastaError is raised if not: use no record before.
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
            if self.gaps == "error":
                for number in records.odd:
                    self._gaps.add(path, records[number])
            yield records, self._exclude_all(path, records, text)
        file.finish()

    def finish(self) -> None:
        """Raise ResidueError, after the last file, if the settings refuse what was found."""
        if self._gaps.sequences:
            gaps, sequences, kinds = self._gaps.amounts
            raise ResidueError(
                f"{gaps} in {sequences} {kinds}, as in an alignment; set `gaps: remove` to have "
                "them taken out, or `gaps: keep` to embed them as the model's own gap token "
                f"(after --config: gaps=remove){self._gaps.first}"
            )
        refused = self._unknown.sequences
        if refused and self._asked == "error":
            raise self._error("")
        if refused == self._records > 0 and self._asked == "skip":
            raise self._error("`invalid_residues: skip` leaves no sequence to embed: ")

    def summary(self) -> str | None:
        """Say what is done with residues that the model does not know; None if there are none."""
        if not self._unknown.sequences:
            return None
        if self._asked == "skip":
            left_out = f"{self._unknown.sequences:,} of {self._records:,} sequences are left out: "
            return left_out + self._found() + self._unknown.first
        return f"{self._found()}; they are read as its unknown token{self._unknown.first}"

    def _exclude_all(self, path: Path, records: Records, text: bytes) -> list[str | None]:
        """Count records, and return the reasons to leave them out; text: the residues of all."""
        self._records += len(records)
        if not text.translate(None, self._unknown.letters):
            return [None] * len(records)
        return [self._exclude(path, record) for record in records]

    def _exclude(self, path: Path, record: Record) -> str | None:
        unknown = self._unknown.add(path, record)
        if not unknown or self._asked != "skip":
            return None
        return f"residue {unknown} is unknown to the model ({unknown.count:,} such)"

    def _error(self, problem: str) -> ResidueError:
        names = self._unknown.counts
        contigs = self._molecule == "DNA" and "'N'" in names
        opening = "sequences hold N, as contigs often do: " if contigs else ""
        skip = ", or `skip` to leave these sequences out" if self._asked == "error" else ""
        advice = [
            "set `embedding: {invalid_residues: unk}` to have them read as its unknown token"
            f"{skip} (after --config: 'embedding={{invalid_residues: unk}}')"
        ]
        advice += [_HINTS[key] for name in names if (key := (self._molecule, name)) in _HINTS]
        message = "; ".join([opening + problem + self._found(), *advice])
        return ResidueError(message + self._unknown.first)

    def _found(self) -> str:
        residues, sequences, kinds = self._unknown.amounts
        return f"the model does not know {residues} of {sequences} {kinds}"
