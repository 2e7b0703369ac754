"""Check that the files beside a model's weights describe its family's vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from seqembed.errors import ModelError, show
from seqembed.models.encoders.tokenization import AMINO_ACIDS, read_tokenizer
from seqembed.models.source import (
    ADDED_TOKENS,
    SENTENCEPIECE,
    TOKENIZER,
    VOCABULARY,
    advise,
    read_json_object,
)
from seqembed.models.vocabularies import Vocabulary

# Settings of config.json that hold a token's id. Another id means another vocabulary in training.
NAMED_TOKENS = {"pad_token_id": "<pad>", "mask_token_id": "<mask>", "eos_token_id": "</s>"}


def read_pieces(path: Path) -> dict[str, int]:
    """Return the tokens of a sentencepiece model (spiece.model), and their ids.

    The file is a Protocol Buffers message: field 1 is a piece, again and again, and the piece's own
    field 1 its text (src/sentencepiece_model.proto of https://github.com/google/sentencepiece).
    Raises ModelError if the file is not such a message.
    """
    try:
        pieces = [piece for number, piece in _fields(path.read_bytes()) if number == 1]
        texts = [dict(_fields(piece))[1].decode() for piece in pieces]
    except (OSError, ValueError, IndexError, KeyError) as error:
        reason = error.strerror if isinstance(error, OSError) else "damaged, or another file"
        message = f"is not a sentencepiece model that can be read ({reason})"
        raise ModelError(f"{path}: {message}; {advise(path, 'copy it again')}") from error
    return {text: number for number, text in enumerate(texts)}


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the numbers of a Protocol Buffers message's fields and, where it has one, their bytes.

    Raises IndexError or ValueError if the bytes are not a message.
    """
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        size = {1: 8, 5: 4}.get(key & 7, 0)
        if key & 7 == 2:
            size, place = _varint(message, place)
        elif key & 7 == 0:
            _, place = _varint(message, place)
        elif not size:
            raise ValueError(f"wire type {key & 7} is unknown")
        if place + size > len(message):
            raise ValueError("it is cut short")
        yield key >> 3, message[place : place + size]
        place += size


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """Return the number at a place, of which each byte holds 7 bits, and the place after it."""
    number = shift = 0
    while True:
        byte = message[place]
        number, shift, place = number | (byte & 127) << shift, shift + 7, place + 1
        if byte < 128:
            return number, place
        if shift > 63:
            raise ValueError("a number has more than 64 bits")


# The files that give tokens their ids, and what reads them.
ID_READERS: dict[str, Callable[[Path], Mapping[str, int]]] = {
    TOKENIZER: lambda path: read_tokenizer(path).get_vocab(),
    SENTENCEPIECE: read_pieces,
    ADDED_TOKENS: read_json_object,
}


def check_vocabulary(
    path: Path,
    config: Mapping[str, Any],
    vocabulary: Vocabulary,
    model: str,
    *,
    built_in: bool = True,
) -> None:
    """Raise ModelError if config.json or one of TOKEN_FILES is of another vocabulary.

    path: config.json, beside which these files may be. config: its content. model: the family's
    name for messages. built_in: whether the tokens are; if not, files beside the one that they were
    read from need not have other residues than AMINO_ACIDS. A vocab_size larger than the authors'
    (a padded embedding) is accepted if vocab.txt begins with the vocabulary's tokens.
    """
    known, advice = vocabulary.tokens, f"only models with {model}'s alphabet are supported"
    for name, token in ((n, t) for n, t in NAMED_TOKENS.items() if t in known):
        number = known.index(token)
        # transformers allows several tokens for an end.
        if config.get(name) not in (None, number, [number]):
            message = f"{name} is {config[name]!r}, but {number} in {model}"
            raise ModelError(f"{path}: {message}; {advice}")
    if config.get("vocab_list") and tuple(config["vocab_list"]) != known:
        raise ModelError(f"{path}: vocab_list is not the {model} alphabet; {advice}")
    residues = vocabulary.residues if built_in else AMINO_ACIDS
    for name, read_ids in ID_READERS.items():
        if (file := path.parent / name).exists():
            # added_tokens.json has only what the file beside it lacks.
            needed = () if name == ADDED_TOKENS else residues
            _check_ids(file, read_ids(file), vocabulary.tokens, needed, model)
    listed = path.parent / VOCABULARY
    tokens = listed.read_text("utf-8", errors="replace").split() if listed.exists() else []
    if listed.exists() and tuple(tokens[: len(known)]) != known:
        place = next(n for n, t in enumerate(known) if tokens[n : n + 1] != [t])
        message = f"is not the {model} alphabet (line {place + 1} is not {known[place]})"
        raise ModelError(f"{listed}: {message}; {advice}")
    found, size = config.get("vocab_size"), vocabulary.size
    padded = type(found) is int and found > size and tokens
    if found != size and not padded:
        message = f"vocab_size is {found!r}, but {size} in {model} (or more, beside a {VOCABULARY})"
        raise ModelError(f"{path}: {message}; {advice}")


def _check_ids(
    file: Path, ids: Mapping[str, int], known: Sequence[str], needed: Iterable[str], model: str
) -> None:
    """Raise ModelError if a file gives ids other than `known` has, or none to a token of `needed`.

    ids: what the file gives. model: the family's name for messages.
    """
    advice = f"only models with {model}'s alphabet are supported"
    if wrong := [f"{t} {ids[t]}, not {n}" for n, t in enumerate(known) if ids.get(t, n) != n]:
        message = f"gives other ids than the {model} alphabet ({show(wrong)})"
        raise ModelError(f"{file}: {message}; {advice}")
    if lost := [token for token in needed if token not in ids]:
        message = f"lacks tokens of the {model} alphabet ({show(lost)}); if damaged, copy it again"
        raise ModelError(f"{file}: {message}; {advice}")
