"""Turn residues into the token ids that the models' authors give them, without PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as TokenizerFile

from seqembed.errors import ModelError

# The residues that ESM-2 knows, in the order of their tokens.
ESM2_LETTERS = b"LAGVSERTIDPKQNFYMHWCXBUZO.-"
# fair-esm's Alphabet.from_architecture("ESM-1b"); a token's id is its place in this list.
ESM2_ALPHABET = ("<cls>", "<pad>", "<eos>", "<unk>", *ESM2_LETTERS.decode(), "<null_1>", "<mask>")
# Tokens around a sequence's own: BOS and EOS, or [CLS] and [SEP].
SPECIALS = 2


class Esm2Tokenizer:
    """ESM-2's tokenizer: a token for each residue.

    letters: the residues, ASCII in upper case, that the model knows by themselves.
    """

    letters = ESM2_LETTERS

    def __init__(self) -> None:
        self._table = np.full(256, ESM2_ALPHABET.index("<unk>"), np.int64)
        for letter in ESM2_LETTERS:
            self._table[letter] = ESM2_ALPHABET.index(chr(letter))

    def encode(self, residues: bytes) -> NDArray[np.int64]:
        """Return the n token ids between the two specials, (n + 2,) int64.

        A residue that the model does not know becomes the unknown token.
        """
        tokens = np.empty(len(residues) + SPECIALS, np.int64)
        tokens[0], tokens[-1] = ESM2_ALPHABET.index("<cls>"), ESM2_ALPHABET.index("<eos>")
        tokens[1:-1] = self._table[np.frombuffer(residues, np.uint8)]
        return tokens

    def count(self, residues: bytes) -> int:
        """Count the tokens, specials left out."""
        return len(residues)


class BpeTokenizer:
    """DNABERT's byte-pair encoding, with the attributes and methods of Esm2Tokenizer.

    path: a `tokenizer.json` of the tokenizers library; ModelError if it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _read_tokenizer(path)
        # DNABERT-S's file cuts sequences at 2,000 tokens, and pads shorter ones.
        self._file.no_truncation()
        self._file.no_padding()
        vocabulary = self._file.get_vocab(with_added_tokens=False)
        known = sorted(ord(token) for token in vocabulary if len(token) == 1 and token.isascii())
        self.letters = bytes(known)
        # Each unknown letter becomes an unknown token, so that no letters spell "[MASK]".
        self._plain = bytes(byte if byte in self.letters else ord("?") for byte in range(256))

    def encode(self, residues: bytes) -> NDArray[np.int64]:
        text = residues.translate(self._plain).decode("ascii")
        return np.array(self._file.encode(text).ids, np.int64)

    def count(self, residues: bytes) -> int:
        return len(self.encode(residues)) - SPECIALS

    def check(self, vocabulary: int) -> None:
        """Raise ModelError if the tokenizer does not fit a model with `vocabulary` tokens."""
        ids = self._file.get_vocab().values()
        if len(ids) != vocabulary or max(ids) >= vocabulary:
            message = f"has {len(ids)} tokens up to id {max(ids, default=0)}"
            raise ModelError(f"{self._path}: {message}, but the model has {vocabulary}")
        cls, sep, unknown = map(self._file.token_to_id, ("[CLS]", "[SEP]", "[UNK]"))
        try:
            found = self.encode(b"??").tolist()
        except Exception as error:  # noqa: BLE001 (the library raises plain Exception)
            raise ModelError(f"{self._path}: cannot be used: {error}") from error
        if None in (cls, sep, unknown) or found != [cls, unknown, unknown, sep]:
            message = "does not put sequences between [CLS] and [SEP], each unknown letter [UNK]"
            raise ModelError(f"{self._path}: {message}")


Tokenizer = Esm2Tokenizer | BpeTokenizer


def read_token_ids(path: Path) -> dict[str, int]:
    """Return the ids of all tokens in a tokenizer.json; ModelError if it cannot be read."""
    return dict(_read_tokenizer(path).get_vocab())


def _read_tokenizer(path: Path) -> TokenizerFile:
    try:
        return TokenizerFile.from_file(str(path))
    except Exception as error:  # noqa: BLE001 (the library raises plain Exception)
        raise ModelError(f"{path}: is not a tokenizer that can be read: {error}") from error
