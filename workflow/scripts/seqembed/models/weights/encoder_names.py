"""Find the encoder's tensors in a checkpoint, by plain name, and list the other names."""

from __future__ import annotations

import re
from dataclasses import dataclass

from seqembed.errors import ModelError, count_of, show
from seqembed.models.weights.tensors import State, Stored

# A wrapped module has one more part in its names, and the same weights: DataParallel,
# torch.compile, FSDP and activation checkpointing.
WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# transformers 5 saves some LayerNorms under the names of its TensorFlow days.
LEGACY_NAMES = {
    "LayerNorm.gamma": "LayerNorm.weight",
    "LayerNorm.beta": "LayerNorm.bias",
    "layernorm.gamma": "layernorm.weight",
    "layernorm.beta": "layernorm.bias",
}


@dataclass(frozen=True)
class EncoderNames:
    """Tensors of the encoder by plain name, and the names of those outside its prefix."""

    prefix: str
    encoder: dict[str, Stored]
    beside: tuple[str, ...]


def find_encoder(
    state: State, prefixes: tuple[str, ...], embeddings: tuple[str, ...]
) -> EncoderNames:
    """The encoder whose word embedding is one of `embeddings`, below one of `prefixes`.

    Raises:
        ModelError: there is no encoder, more than one, or one below another prefix.
    """
    plain = plain_names(state)
    prefix = _find_prefix(plain, prefixes, embeddings)
    return EncoderNames(
        prefix=prefix,
        encoder={n.removeprefix(prefix): held for n, held in plain.items() if n.startswith(prefix)},
        beside=tuple(name for name in plain if not name.startswith(prefix)),
    )


def plain_names(state: State) -> dict[str, Stored]:
    """The same tensors without the names of wrappers, and in today's words.

    Raises ModelError where two tensors come to have one name: either could be the right one.
    """
    plain: dict[str, Stored] = {}
    origins: dict[str, str] = {}
    for name, stored in state.items():
        today = _plain_name(name)
        if today in plain:
            both = f"{origins[today]!r} and {name!r}"
            raise ModelError(f"holds one weight twice, as {both}; save the model without one copy")
        plain[today], origins[today] = stored, name
    return plain


def _plain_name(name: str) -> str:
    name = WRAPPERS.sub("", name)
    for legacy, today in LEGACY_NAMES.items():
        name = name.replace(legacy, today)
    return name


def _find_prefix(state: State, prefixes: tuple[str, ...], embeddings: tuple[str, ...]) -> str:
    """What stands before the encoder's own names."""
    name, embedding = _find_embedding(state, embeddings)
    prefix = name.removesuffix(embedding)
    if prefix not in prefixes:
        raise ModelError(
            f"the checkpoint lacks the weight {embedding!r}: its encoder's names begin with "
            f"{prefix!r}; save the encoder alone, with its own save_pretrained"
        )
    return prefix


def _find_embedding(state: State, embeddings: tuple[str, ...]) -> tuple[str, str]:
    """The name of the only word embedding, and the one of `embeddings` that it ends with."""
    found = [(name, e) for name in state for e in embeddings if f".{name}".endswith(f".{e}")]
    if len(found) > 1:
        names = show([name for name, _ in found])
        raise ModelError(f"holds {len(found)} encoders ({names}); save the one that is meant alone")
    if not found:
        others = "".join(f" (or {name!r})" for name in embeddings[1:])
        raise ModelError(
            f"the checkpoint lacks the weight {embeddings[0]!r}{others}; it holds "
            f"{count_of(len(state), 'weight')}: {show(list(state))}; save the model with its own "
            "save_pretrained"
        )
    return found[0]
