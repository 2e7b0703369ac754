"""What in a FASTA file is no sequence of the model's molecule: certainly, or by all appearances."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from seqembed.errors import FastaError
from seqembed.line_widths import LineWidths
from seqembed.models.families import Molecule
from seqembed.records import Records
from seqembed.suspicious_lines import POSSIBLE, Finding, find_impossible, find_suspicious, show
from seqembed.suspicious_records import (
    DNA_MIN_SHARE,
    NUCLEOTIDES,
    Composition,
    Identities,
    find_suspicious_records,
)

Suspicious = Literal["error", "allow"]

# Fewer letters do not tell what a file holds.
MIN_LETTERS = 100
# A third of a usual protein, and none of them one of IUPAC's codes for nucleotides.
AMINO_ACIDS_ALONE = b"EFILPQ"
PROTEIN_MIN_SHARE = 0.1
_SET = "set `suspicious: allow` (after --config: suspicious=allow)"
_ALLOW = f"correct the file, or {_SET} to have it read as residues"


class FileCheck:
    """Looks at all records of one file; memory does not grow with them.

    impossible: whether a line that cannot be residues is an error; its sequence is left out
    otherwise. Raises ValueError for an unknown `suspicious`.
    """

    def __init__(
        self,
        path: Path,
        molecule: Molecule,
        *,
        impossible: bool,
        gaps_kept: bool,
        suspicious: Suspicious,
    ) -> None:
        if suspicious not in get_args(Suspicious):
            raise ValueError(f"suspicious must be error or allow, not {suspicious!r}")
        self._path, self._molecule = path, molecule
        self._impossible, self._gaps_kept = impossible, gaps_kept
        self._suspicious = suspicious == "error"
        foreign = NUCLEOTIDES if molecule == "protein" else AMINO_ACIDS_ALONE
        self._is_foreign = bytes(byte in foreign for byte in range(256))
        self._letters = self._foreign = 0
        self._composition, self._widths = Composition(), LineWidths(molecule == "protein")
        self._identities = Identities()
        self._first: FastaError | None = None
        self._count = 0

    def look(self, records: Records, text: bytes) -> None:
        """Look at records, of which `text` is all residues."""
        self._letters += len(text)
        # Faster than to delete these letters, which are everywhere.
        marks = np.frombuffer(text.translate(self._is_foreign), np.bool_)
        self._foreign += int(np.count_nonzero(marks))
        found: dict[int, tuple[Finding, str]] = {}
        if self._suspicious:
            self._composition.add(records, text)
            self._widths.add(records)
            for number, finding in find_suspicious_records(records, text, self._molecule):
                found.setdefault(number, (finding, _ALLOW))
            for number, finding in self._identities.find(records):
                found.setdefault(number, (finding, _ALLOW))
        for number in self._list_odd(records, text):
            if number not in found and (odd := self._look_closely(records.raw(number))):
                found[number] = odd
        for number in sorted(found):
            self._note(records, number, *found[number])

    def _list_odd(self, records: Records, text: bytes) -> Iterable[int]:
        """The records to look at; of DNA, upper-case letters may be wrong, too."""
        if self._molecule == "protein" or not text.translate(None, POSSIBLE["DNA"]):
            return records.odd
        return range(len(records))

    def _look_closely(self, raw: bytes) -> tuple[Finding, str] | None:
        if self._impossible and (finding := find_impossible(raw, self._molecule)):
            return finding, ""
        finding = None
        if self._suspicious:
            finding = find_suspicious(raw, self._molecule, gaps_kept=self._gaps_kept)
        return (finding, _ALLOW) if finding else None

    def _note(self, records: Records, number: int, finding: Finding, advice: str) -> None:
        self._count += 1
        if self._first is None:
            record = records[number]
            line, name = record.line + finding.line, record.sequence_id
            self._first = self._error(finding, advice, line, name)

    def _error(self, found: Finding, advice: str, line: int, record: str | None) -> FastaError:
        message = f"{show(found.text)} {found.what}"
        message += f"; {advice}" * bool(advice)
        return FastaError(message, path=self._path, record=record, line=line)

    def finish(self) -> None:
        """Raise FastaError where the file holds what is no sequence of the molecule."""
        if self._suspicious:
            _refuse_other_molecule(self._path, self._molecule, self._letters, self._foreign)
        if self._first:
            raise self._first
        if not self._suspicious:
            return
        composition = self._composition.find() if self._molecule == "protein" else None
        if found := composition or self._widths.find():
            line, finding = found
            raise self._error(finding, _ALLOW, line, None)


def _refuse_other_molecule(path: Path, molecule: Molecule, total: int, foreign: int) -> None:
    """Raise FastaError for a file of which `foreign` letters of `total` show another molecule."""
    if total < MIN_LETTERS:
        return
    share = f"{100 * foreign / total:.0f}% of its {total:,} letters are in"
    if molecule == "protein" and foreign >= DNA_MIN_SHARE * total:
        message = f"looks like DNA or RNA ({share} {NUCLEOTIDES.decode()}); a protein model needs "
        message += "proteins: translate the sequences first, or choose a model of DNA; of proteins "
        raise FastaError(f"{message}that are so, {_SET}", path=path)
    if molecule == "DNA" and foreign >= PROTEIN_MIN_SHARE * total:
        message = f"looks like proteins ({share} {AMINO_ACIDS_ALONE.decode()}, which only amino "
        message += "acids are); a model of DNA needs nucleotides: give genes, contigs or genomes, "
        raise FastaError(message + "or choose a protein model", path=path)
