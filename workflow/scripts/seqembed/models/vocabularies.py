"""The vocabularies that are built in: one token for each residue. Needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Specials:
    """How many special tokens stand before and after a sequence's own tokens."""

    before: int = 1
    after: int = 1

    @property
    def total(self) -> int:
        """How many tokens a sequence, or a window of one, has beside its own."""
        return self.before + self.after


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The tokens of a model that makes one token of each residue.

    name: what recipes call it. tokens: in the order of their ids, from 0. size: the vocab_size in
    the authors' config.json; more ids than tokens are not in use. letters: the residues that have a
    token, ASCII in upper case. unknown: the token of all other letters. before, after: the special
    tokens around a sequence.
    """

    name: str
    tokens: tuple[str, ...]
    size: int
    letters: bytes
    unknown: str = "<unk>"
    before: tuple[str, ...] = ("<cls>",)
    after: tuple[str, ...] = ("<eos>",)

    @property
    def specials(self) -> Specials:
        """How many tokens `before` and `after` are."""
        return Specials(len(self.before), len(self.after))


_LETTERS = "LAGVSERTIDPKQNFYMHWCXBUZO.-"
_FIRST = ("<cls>", "<pad>", "<eos>", "<unk>", *_LETTERS)
# ESM-1b's, ESM-1v's and ESM-2's: Alphabet.from_architecture("ESM-1b") of fair-esm (esm/data.py).
ESM = Vocabulary(
    name="esm2",
    tokens=(*_FIRST, "<null_1>", "<mask>"),
    size=33,
    letters=_LETTERS.encode(),
)
# SEQUENCE_VOCAB of transformers (models/esmc/tokenization_esmc.py). "|" joins chains, so it is not
# a residue.
ESMC = Vocabulary(
    name="esmc",
    tokens=(*_FIRST, "|", "<mask>"),
    size=64,
    letters=_LETTERS.encode(),
)
