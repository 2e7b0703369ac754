"""Turn residues into the token ids that the models' authors use. Needs no PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as TokenizerFile

from seqembed.errors import ModelError

# The residues that ESM-2 knows, in the order of their token ids.
ESM2_LETTERS = b"LAGVSERTIDPKQNFYMHWCXBUZO.-"
# The tokens of ESM-2 in the order of their ids, from 0: Alphabet.from_architecture("ESM-1b") of
# fair-esm (esm/data.py).
ESM2_ALPHABET = ("<cls>", "<pad>", "<eos>", "<unk>", *ESM2_LETTERS.decode(), "<null_1>", "<mask>")
# How many special tokens stand around a sequence's own tokens: BOS and EOS, or [CLS] and [SEP].
SPECIALS = 2
OWN_FILE = "put the model's own tokenizer.json there"


class Esm2Tokenizer:
    """ESM-2's tokenizer, which makes one token of each residue.

    letters: the residues for which the model has a token, ASCII in upper case.
    """

    letters = ESM2_LETTERS

    def __init__(self) -> None:
        self._table = np.full(256, ESM2_ALPHABET.index("<unk>"), np.int64)
        for letter in ESM2_LETTERS:
            self._table[letter] = ESM2_ALPHABET.index(chr(letter))

    def encode(self, residues: bytes) -> NDArray[np.int64]:
        """Return the token ids of n residues, special tokens included: (n + 2,) int64.

        residues: ASCII in upper case. A residue without a token becomes the unknown token.
        """
        tokens = np.empty(len(residues) + SPECIALS, np.int64)
        tokens[0], tokens[-1] = ESM2_ALPHABET.index("<cls>"), ESM2_ALPHABET.index("<eos>")
        tokens[1:-1] = self._table[np.frombuffer(residues, np.uint8)]
        return tokens

    def count(self, residues: bytes) -> int:
        """Return the number of tokens of `residues`, special tokens left out."""
        return len(residues)


class BpeTokenizer:
    """DNABERT's tokenizer by byte-pair encoding, with the attributes and methods of Esm2Tokenizer.

    path: a `tokenizer.json` of the tokenizers library. Raises ModelError if it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = read_tokenizer(path)
        # DNABERT-S's file cuts sequences at 2,000 tokens, and pads shorter ones.
        self._file.no_truncation()
        self._file.no_padding()
        vocabulary = self._file.get_vocab(with_added_tokens=False)
        known = sorted(ord(token) for token in vocabulary if len(token) == 1 and token.isascii())
        self.letters = bytes(known)
        # Letters without a token become "?", so that no residues spell a token such as "[MASK]".
        self._plain = bytes(byte if byte in self.letters else ord("?") for byte in range(256))

    def encode(self, residues: bytes) -> NDArray[np.int64]:
        """Return the ids of the n tokens of `residues` and two special tokens: (n + 2,) int64."""
        text = residues.translate(self._plain).decode("ascii")
        return np.array(self._file.encode(text).ids, np.int64)

    def count(self, residues: bytes) -> int:
        """Return the number of tokens of `residues`, special tokens left out."""
        return len(self.encode(residues)) - SPECIALS

    def check(self, vocabulary: int) -> None:
        """Raise ModelError unless the tokenizer is DNABERT's and has `vocabulary` tokens."""
        ids = self._file.get_vocab().values()
        if len(ids) != vocabulary or max(ids) >= vocabulary:
            message = f"has {len(ids)} tokens, ids up to {max(ids, default=0)}, but the model has"
            raise ModelError(f"{self._path}: {message} {vocabulary} tokens; {OWN_FILE}")
        cls, sep, unknown = map(self._file.token_to_id, ("[CLS]", "[SEP]", "[UNK]"))
        try:
            found = self.encode(b"??").tolist()
        except Exception as error:  # noqa: BLE001 (the library raises plain Exception)
            message = f"is not a tokenizer that can be used ({error}); {OWN_FILE}"
            raise ModelError(f"{self._path}: {message}") from error
        if None in (cls, sep, unknown) or found != [cls, unknown, unknown, sep]:
            message = "does not put [CLS] first, [SEP] last, and [UNK] for each unknown letter"
            raise ModelError(f"{self._path}: {message}; {OWN_FILE}")


Tokenizer = Esm2Tokenizer | BpeTokenizer


def read_tokenizer(path: Path) -> TokenizerFile:
    """Return the tokenizer of a tokenizer.json; raise ModelError if the file is unreadable."""
    try:
        return TokenizerFile.from_file(str(path))
    except Exception as error:  # noqa: BLE001 (the library raises plain Exception)
        message = f"is not a tokenizer that can be read ({error}); {OWN_FILE}"
        raise ModelError(f"{path}: {message}") from error
