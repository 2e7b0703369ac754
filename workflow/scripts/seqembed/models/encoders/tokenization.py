"""Turn residues into the token ids that the models' authors use. Needs no PyTorch."""

from __future__ import annotations

import string
from collections.abc import MutableMapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as TokenizerFile

from seqembed.errors import ModelError, count_of, show
from seqembed.models.source import advise
from seqembed.models.vocabularies import Vocabulary

OWN_FILE = "put the model's own tokenizer.json there"
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"


def limit_tokenizer_threads(environ: MutableMapping[str, str], threads: int) -> None:
    """Set RAYON_NUM_THREADS in `environ`, so that BpeTokenizer encodes on `threads` threads.

    A value that the user set stays. Without one the tokenizers library starts a thread for each
    core. It reads the variable once: call this function before a sequence is encoded.
    """
    environ.setdefault("RAYON_NUM_THREADS", str(threads))


class ResidueTokenizer:
    """A tokenizer that makes one token of each residue.

    vocabulary: with at most 256 tokens. letters: the residues for which the model has a token,
    ASCII in upper case.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.letters, ids = vocabulary.letters, vocabulary.tokens.index
        self._ids = bytes(ids(vocabulary.token(letter)) for letter in range(256))
        self._before, self._after = [*map(ids, vocabulary.before)], [*map(ids, vocabulary.after)]

    def encode(self, residues: bytes) -> NDArray[np.int64]:
        """Return the token ids of n residues, special tokens included, int64.

        residues: ASCII in upper case. A residue without a token becomes the unknown token.
        """
        return self.encode_all([residues])[0]

    def encode_all(self, sequences: Sequence[bytes]) -> list[NDArray[np.int64]]:
        """Return the token ids of each sequence, as `encode` does, all by one look-up."""
        # Blanks before and after each sequence keep the places of special tokens.
        before, after = len(self._before), len(self._after)
        gap = b" " * (after + before)
        spaced = b" " * before + gap.join(sequences) + b" " * after
        tokens = np.frombuffer(spaced.translate(self._ids), np.uint8).astype(np.int64)
        bounds = np.cumsum([0, *(len(residues) + len(gap) for residues in sequences)])
        for place, token in enumerate(self._before):
            tokens[bounds[:-1] + place] = token
        for place, token in enumerate(self._after):
            tokens[bounds[1:] - after + place] = token
        return [tokens[start:stop] for start, stop in pairwise(bounds.tolist())]

    def count(self, residues: bytes) -> int:
        """Return the number of tokens of `residues`, special tokens left out."""
        return len(residues)


class BpeTokenizer:
    """DNABERT's tokenizer by byte-pair encoding, with the attributes and methods of
    ResidueTokenizer.

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
        return np.array(self._file.encode(self._text(residues)).ids, np.int64)

    def encode_all(self, sequences: Sequence[bytes]) -> list[NDArray[np.int64]]:
        """Return the token ids of each sequence, as `encode` does, on the library's threads."""
        # Unlike encode_batch, this leaves out where in the text the tokens are.
        found = self._file.encode_batch_fast([*map(self._text, sequences)])
        return [np.array(encoding.ids, np.int64) for encoding in found]

    def count(self, residues: bytes) -> int:
        """Return the number of tokens of `residues`, special tokens left out."""
        # It takes three quarters of the time of `encode` (measured).
        return len(self._file.encode_batch_fast([self._text(residues)])[0]) - 2

    def _text(self, residues: bytes) -> str:
        return residues.translate(self._plain).decode("ascii")

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


Tokenizer = ResidueTokenizer | BpeTokenizer


def complete_vocabulary(vocabulary: Vocabulary, path: Path) -> Vocabulary:
    """Return a vocabulary with the tokens of a model's tokenizer.json, and the letters among them.

    Raises ModelError if the file cannot be read, if two tokens have one id, if an id is not below
    the vocabulary's size, or if the special tokens or one of the 20 amino acids are missing.
    """
    ids = read_tokenizer(path).get_vocab()
    tokens = {number: token for token, number in ids.items()}
    if len(tokens) < len(ids):
        raise ModelError(f"{path}: gives one id to two tokens; {OWN_FILE}")
    last = max(tokens, default=0)
    if last >= vocabulary.size:
        message = f"has ids up to {last}, but the model has {vocabulary.size} tokens"
        raise ModelError(f"{path}: {message}; {OWN_FILE}")
    needed = [vocabulary.unknown, *vocabulary.before, *vocabulary.after, *AMINO_ACIDS]
    if lost := [token for token in needed if token not in ids]:
        raise ModelError(f"{path}: lacks {count_of(len(lost), 'token')} ({show(lost)}); {OWN_FILE}")
    letters = "".join(letter for letter in string.ascii_uppercase if letter in ids)
    # Ids may be left out.
    named = tuple(tokens.get(number, f"<unused {number}>") for number in range(last + 1))
    return replace(vocabulary, tokens=named, letters=letters.encode())


def read_tokenizer(path: Path) -> TokenizerFile:
    """Return the tokenizer of a tokenizer.json; raise ModelError if it cannot be read."""
    if not path.exists():
        raise ModelError(f"{path}: does not exist; {OWN_FILE}")
    try:
        return TokenizerFile.from_file(str(path))
    except Exception as error:  # noqa: BLE001 (the library raises plain Exception)
        message = f"is not a tokenizer that can be read ({error}); {advise(path, OWN_FILE)}"
        raise ModelError(f"{path}: {message}") from error
