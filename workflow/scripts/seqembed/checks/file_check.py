"""Refuse a FASTA file that holds anything else than sequences of the model's molecule."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from seqembed.checks.across_records import (
    Composition,
    Identities,
    Lengths,
    LineWidths,
    StatedLengths,
)
from seqembed.checks.lookalikes import DNA_MIN_SHARE, NUCLEOTIDES, find_suspicious_records
from seqembed.checks.notations import POSSIBLE, Finding, find_impossible, find_suspicious
from seqembed.errors import FastaError, shorten
from seqembed.fasta.records import Records
from seqembed.models.families import Molecule

# A file of fewer letters is not judged by their shares.
MIN_LETTERS = 100
# A third of the letters of a usual protein. None of them is a code of IUPAC for nucleotides.
AMINO_ACIDS_ALONE = b"EFILPQ"
PROTEIN_MIN_SHARE = 0.1
_SET = "set `suspicious: allow` (after --config: suspicious=allow)"


class FileCheck:
    """Checks all records of one file, in constant memory.

    impossible: whether a character that cannot be a residue is an error; if not, the caller leaves
    the sequence out. gaps_kept: whether `-` and `.` are embedded. suspicious: whether it is an
    error if a record, or the file, looks like something else than sequences.
    """

    def __init__(
        self, path: Path, molecule: Molecule, *, impossible: bool, gaps_kept: bool, suspicious: bool
    ) -> None:
        self._path, self._molecule = path, molecule
        self._impossible, self._gaps_kept, self._suspicious = impossible, gaps_kept, suspicious
        protein = molecule == "protein"
        foreign = NUCLEOTIDES if protein else AMINO_ACIDS_ALONE
        self._is_foreign = bytes(byte in foreign for byte in range(256))
        self._letters = self._foreign = 0
        self._identities = Identities()
        self._finders: list[Composition | LineWidths | Lengths | StatedLengths]
        self._finders = [LineWidths(protein), Lengths(), StatedLengths()]
        if protein:
            self._finders.insert(0, Composition())
        # The first finding in a record, its line in the file, and the record's id.
        self._first: tuple[Finding, int, str] | None = None
        # How many records have a finding.
        self._count = 0

    def look(self, records: Records, text: bytes) -> None:
        """Check the next records; text: their residues, joined. `finish` reports what was found."""
        if self._suspicious:
            # To mark the foreign letters is faster than to delete them if a text has many.
            marks = np.frombuffer(text.translate(self._is_foreign), np.bool_)
            self._letters += len(text)
            self._foreign += int(np.count_nonzero(marks))
            for finder in self._finders:
                finder.add(records, text)
        found: dict[int, Finding] = {}
        for number, finding in self._find_in_records(records, text):
            earlier = found.get(number)
            if not earlier or (finding.certain and finding.line <= earlier.line):
                found[number] = finding
        if found and not self._first:
            record, finding = records[min(found)], found[min(found)]
            self._first = finding, record.line + finding.line, record.sequence_id
        self._count += len(found)

    def _find_in_records(self, records: Records, text: bytes) -> Iterator[tuple[int, Finding]]:
        if self._suspicious:
            # If sequences with unknown residues are left out, RNA is left out by its U.
            yield from find_suspicious_records(records, text, self._molecule, self._impossible)
            yield from self._identities.find(records)
        # A protein may hold any upper-case letter, DNA only some.
        usual = self._molecule == "protein" or not text.translate(None, POSSIBLE["DNA"])
        for number in records.odd if usual else range(len(records)):
            raw = records.raw(number)
            finding = find_impossible(raw, self._molecule) if self._impossible else None
            if self._suspicious and not finding:
                finding = find_suspicious(raw, self._molecule, gaps_kept=self._gaps_kept)
            if finding:
                yield number, finding

    def finish(self) -> None:
        """Raise FastaError for the first finding; call this after the last records."""
        if self._suspicious:
            self._refuse_other_molecule()
        if self._first:
            raise self._error(*self._first)
        if self._suspicious:
            for line, finding in filter(None, (finder.find() for finder in self._finders)):
                raise self._error(finding, line, None)

    def _error(self, finding: Finding, line: int, record: str | None) -> FastaError:
        message = f"{shorten(finding.text.decode(errors='replace'))!r} {finding.what}"
        if self._count > 1:
            message += f" ({self._count:,} records of the file look wrong in this or another way)"
        if not finding.certain:
            # Some messages end with advice of their own.
            advice = "" if "; " in finding.what else "; correct the file"
            message += f"{advice}, or {_SET} to embed the file as it is"
        return FastaError(message, path=self._path, record=record, line=line)

    def _refuse_other_molecule(self) -> None:
        total, foreign = self._letters, self._foreign
        if total < MIN_LETTERS:
            return
        share = f"{100 * foreign / total:.0f}% of its {total:,} letters are among"
        if self._molecule == "protein" and foreign >= DNA_MIN_SHARE * total:
            message = f"looks like DNA or RNA ({share} {NUCLEOTIDES.decode()}); a protein model "
            message += "needs proteins: translate the sequences first, or choose a model of DNA; "
            raise FastaError(f"{message}if they are proteins, {_SET}", path=self._path)
        if self._molecule == "DNA" and foreign >= PROTEIN_MIN_SHARE * total:
            message = f"looks like proteins ({share} {AMINO_ACIDS_ALONE.decode()}, which stand "
            message += "for amino acids alone); a model of DNA needs DNA: give genes, contigs or "
            raise FastaError(f"{message}genomes, or choose a protein model", path=self._path)
