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

    name: what recipes call it. tokens: in the order of their ids, from 0; none if they are read
    from a model's tokenizer.json. size: the vocab_size in the authors' config.json; more ids than
    tokens are not in use. letters: the residues that have a token, ASCII in upper case. mark: what
    the names of residues' tokens begin with. as_x: the letters that become the token of X, as the
    authors replace them. unknown: the token of all letters that are not in `letters`. before,
    after: the special tokens around a sequence.
    """

    name: str
    tokens: tuple[str, ...] = ()
    size: int
    letters: bytes = b""
    mark: str = ""
    as_x: bytes = b""
    unknown: str = "<unk>"
    before: tuple[str, ...] = ("<cls>",)
    after: tuple[str, ...] = ("<eos>",)

    @property
    def specials(self) -> Specials:
        """How many tokens `before` and `after` are."""
        return Specials(len(self.before), len(self.after))

    @property
    def residues(self) -> tuple[str, ...]:
        """The tokens of `letters`."""
        return tuple(map(self.token, self.letters))

    def token(self, letter: int) -> str:
        """Return the token of a letter, which is the code of a character."""
        if letter not in self.letters:
            return self.unknown
        return self.mark + ("X" if letter in self.as_x else chr(letter))


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
_T5_SPECIALS = ("<pad>", "</s>", "<unk>")
_T5_LETTERS = "ALGVSREDTIPKFQNYMHWCXBOUZ"
# Rostlab/prot_t5_xl_uniref50 on the hub (spiece.model). The ids from 28 on are placeholders of
# masked spans. The authors replace U, Z, O and B by X (the README of
# https://github.com/agemagician/ProtTrans, commit 27c02f07).
PROT_T5 = Vocabulary(
    name="prot_t5",
    tokens=(*_T5_SPECIALS, *(f"▁{letter}" for letter in _T5_LETTERS)),
    size=128,
    letters=_T5_LETTERS.encode(),
    mark="▁",
    as_x=b"UZOB",
    before=(),
    after=("</s>",),
)
# Rostlab/ProstT5 on the hub (spiece.model and added_tokens.json): ProtT5's, placeholders of masked
# spans, which files name in one order or the other, the letters of 3Di structures, and what tells
# the model to read residues, or structures. The authors replace letters as in ProtT5 (the README of
# https://github.com/mheinzinger/ProstT5, commit 3f6c0666).
PROST_T5 = Vocabulary(
    name="prost_t5",
    tokens=(
        *PROT_T5.tokens,
        *["<masked span>"] * 100,
        *"algvsredtipkfqnymhwc",
        "<fold2AA>",
        "<AA2fold>",
    ),
    size=150,
    letters=PROT_T5.letters,
    mark="▁",
    as_x=PROT_T5.as_x,
    before=("<AA2fold>",),
    after=("</s>",),
)
# ElnaggarLab/ankh-base on the hub (tokenizer.json). The authors replace no letters (src/ankh of
# https://github.com/agemagician/Ankh, commit 02b4e25c).
ANKH = Vocabulary(
    name="ankh",
    tokens=(*_T5_SPECIALS, *_T5_LETTERS),
    size=144,
    letters=_T5_LETTERS.encode(),
    before=(),
    after=("</s>",),
)
# ElnaggarLab/ankh3-large on the hub. Its card puts [NLU] before a sequence to embed, as the
# authors' src/ankh/likelihood.py does.
ANKH3 = Vocabulary(name="ankh3", size=256, before=("[NLU]",), after=("</s>",))
