"""The sequences of a race: read from a FASTA file or generated, in lengths that all can read."""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from batching import TOKENS_A_BATCH, padded_batches
from shapes import Molecule

SEED = 20260801
# Residues, or bases, that a sequence has at the median; proteins as in UniProt.
MEDIAN = {"protein": 300, "DNA": 2000}
SPREAD = 0.7  # of the logarithm of lengths
# What an ESM-2 is trained on at once; about as much for DNABERT-S, whose tokens are some 5 bases.
LONGEST = {"protein": 1022, "DNA": 10_000}
LETTERS = {"protein": "LAGVSERTIDPKQNFYMHWC", "DNA": "ACGT"}
GENERATED = 500


def write_input(
    path: Path,
    molecule: Molecule,
    fasta: Path | None,
    *,
    every: int,
    count: int = GENERATED,
    times: int = 1,
    batches: int | None = None,
    specials: int = 2,
    budget: int = TOKENS_A_BATCH,
) -> int:
    """Write every so manieth distinct sequence as s0, s1, ...; return how many these are.

    times: each sequence is written as often, every time rotated by one residue more, because equal
    sequences are embedded once.

    batches: how many batches of sequences are written. All sequences are sorted by length and make
    batches of `budget` tokens, of which evenly spread ones are taken; each sequence has `specials`
    tokens beside its residues. A few sequences of all lengths would fill none.

    Proteins are cut to what a model reads at once. Contigs are cut into as many fragments as they
    hold, of lengths like an assembly's: a whole one can be too long for a padded batch.
    """
    found = list(read_sequences(fasta)) if fasta else generate(molecule, count)
    longest = LONGEST[molecule]
    cut = fragments(found) if molecule == "DNA" else (residues[:longest] for residues in found)
    chosen = list(dict.fromkeys(cut))[::every]
    chosen = list(dict.fromkeys(s[n:] + s[:n] for n in range(times) for s in chosen))
    chosen = take_batches(chosen, batches, budget, specials) if batches else chosen
    path.write_text("".join(f">s{n}\n{residues}\n" for n, residues in enumerate(chosen)))
    return len(chosen)


def take_batches(sequences: Sequence[str], count: int, budget: int, specials: int) -> list[str]:
    """The sequences of `count` batches, from the middle of as many equal parts of all batches."""
    found = padded_batches([len(residues) + specials for residues in sequences], budget)
    middles = (len(found) * (2 * part + 1) // (2 * count) for part in range(count))
    return [sequences[number] for middle in middles for number in found[middle]]


def read_sequences(path: Path) -> Iterator[str]:
    """The residues of each record of a FASTA file, plain or gzip, as the index reads them."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        for record in ("\n" + file.read()).split("\n>")[1:]:
            _, *lines = record.splitlines()
            if residues := "".join(line.strip() for line in lines).upper().removesuffix("*"):
                yield residues


def generate(molecule: Molecule, count: int) -> list[str]:
    choice = random.Random(SEED)
    lengths = random_lengths(choice, molecule)
    return ["".join(choice.choices(LETTERS[molecule], k=next(lengths))) for _ in range(count)]


def random_lengths(choice: random.Random, molecule: Molecule) -> Iterator[int]:
    """Log-normal lengths without an end."""
    while True:
        length = round(MEDIAN[molecule] * choice.lognormvariate(0, SPREAD))
        yield min(max(length, 1), LONGEST[molecule])


def fragments(contigs: Iterable[str]) -> Iterator[str]:
    lengths = random_lengths(random.Random(SEED), "DNA")
    for contig in contigs:
        start = 0
        while start < len(contig):
            yield contig[start : (start := start + next(lengths))]
