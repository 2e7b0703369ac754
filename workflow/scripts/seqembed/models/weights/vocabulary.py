"""Check that the files beside a model's weights describe its family's vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqembed.errors import ModelError, show
from seqembed.models.encoders.tokenization import read_tokenizer
from seqembed.models.source import TOKENIZER, VOCABULARY
from seqembed.models.vocabularies import Vocabulary

# Settings of config.json that hold a token's id. Another id means another vocabulary in training.
NAMED_TOKENS = {"pad_token_id": "<pad>", "mask_token_id": "<mask>"}


def check_vocabulary(
    path: Path, config: Mapping[str, Any], vocabulary: Vocabulary, model: str
) -> None:
    """Raise ModelError if config.json, tokenizer.json or vocab.txt is of another vocabulary.

    path: config.json, beside which the other files may be. config: its content. model: the family's
    name for messages. A vocab_size larger than the authors' (a padded embedding) is accepted if
    vocab.txt begins with the vocabulary's tokens.
    """
    known, advice = vocabulary.tokens, f"only models with {model}'s alphabet are supported"
    for name, token in ((n, t) for n, t in NAMED_TOKENS.items() if t in known):
        number = known.index(token)
        if config.get(name) not in (None, number):
            message = f"{name} is {config[name]!r}, but {number} in {model}"
            raise ModelError(f"{path}: {message}; {advice}")
    if config.get("vocab_list") and tuple(config["vocab_list"]) != known:
        raise ModelError(f"{path}: vocab_list is not the {model} alphabet; {advice}")
    tokenizer, listed = path.parent / TOKENIZER, path.parent / VOCABULARY
    ids = read_tokenizer(tokenizer).get_vocab() if tokenizer.exists() else {}
    if wrong := [f"{t} {ids[t]}, not {n}" for n, t in enumerate(known) if ids.get(t, n) != n]:
        message = f"gives other ids than the {model} alphabet ({show(wrong)})"
        raise ModelError(f"{tokenizer}: {message}; {advice}")
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
