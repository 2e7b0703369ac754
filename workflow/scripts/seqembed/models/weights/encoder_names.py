"""Find the encoder in a checkpoint by the names of its tensors, and refuse what may change it."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from seqembed.errors import ModelError, count_of, show
from seqembed.models.weights.layout import Layout
from seqembed.models.weights.other_models import is_head, refuse_other_models
from seqembed.models.weights.tensors import State

# A wrapped module has one more part in its names, and the same weights: DataParallel,
# torch.compile, FSDP and activation checkpointing.
WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# transformers 5 saves some LayerNorms under the names of its TensorFlow days.
LEGACY_NAMES = re.compile(r"(?<=\.LayerNorm\.|\.layernorm\.)(?:gamma|beta)$")
TODAY = {"gamma": "weight", "beta": "bias"}


@dataclass(frozen=True)
class EncoderNames:
    """A checkpoint's tensors by plain name.

    encoder: those below `prefix`, which is taken from their names; beside: the names of the others.
    """

    prefix: str
    encoder: State
    beside: tuple[str, ...]

    def refuse_unknown(self, used: Collection[str], unused: re.Pattern[str]) -> None:
        """Raise ModelError for a tensor that the encoder does not use and that may change a row.

        used: plain names of the tensors that it uses. unused: a pattern; a tensor in the encoder
        whose whole plain name it matches changes no row. Nor does a head, which lies beside the
        encoder or, where names have no prefix, at the top level.
        """
        inside = [name for name in self.encoder if name not in used and not unused.fullmatch(name)]
        if not self.prefix:
            inside = [name for name in inside if not is_head(name)]
        beside = [name for name in self.beside if not is_head(name.removeprefix("encoder."))]
        if unknown := [self.prefix + name for name in inside] + beside:
            raise ModelError(
                f"holds {count_of(len(unknown), 'weight')} that the encoder does not use and that "
                f"may change its rows ({show(unknown)}); if they change none, save the encoder "
                "alone, with its own save_pretrained, and give that folder"
            )


def find_encoder(state: State, layout: Layout) -> EncoderNames:
    """The encoder of a checkpoint of the layout's family.

    Raises ModelError where there is no encoder, more than one, or one of another model.
    """
    plain = _plain_names(state)
    refuse_other_models(plain.keys())
    prefix = _find_prefix(plain, layout)
    encoder = {n.removeprefix(prefix): held for n, held in plain.items() if n.startswith(prefix)}
    return EncoderNames(prefix, encoder, tuple(n for n in plain if not n.startswith(prefix)))


def _plain_names(state: State) -> State:
    """The same tensors without the names of wrappers, and with today's names.

    Raises ModelError where two tensors come to have one name: either could be the right one.
    """
    origins: dict[str, str] = {}
    for name in state:
        plain = LEGACY_NAMES.sub(lambda found: TODAY[found[0]], WRAPPERS.sub("", name))
        if plain in origins:
            both = f"{origins[plain]!r} and {name!r}"
            raise ModelError(f"holds one weight twice, as {both}; save the model without one copy")
        origins[plain] = name
    return {plain: state[name] for plain, name in origins.items()}


def _find_prefix(state: State, layout: Layout) -> str:
    """The prefix of the encoder's names, found by the name of its word embedding."""
    names = layout.embeddings
    found = [(name, own) for name in state for own in names if f".{name}".endswith(f".{own}")]
    if not found:
        raise ModelError(
            f"lacks the weight {' or '.join(map(repr, names))}; it holds "
            f"{count_of(len(state), 'weight')}: {show(list(state))}; save the model with its own "
            "save_pretrained"
        )
    if len(found) > 1:
        both = show([name for name, _ in found])
        raise ModelError(f"holds {len(found)} encoders ({both}); save the one that is meant alone")
    name, own = found[0]
    prefix = name.removesuffix(own)
    if prefix not in layout.prefixes:
        raise ModelError(
            f"lacks the weight {own!r}: its encoder's names begin with {prefix!r}; save the "
            "encoder alone, with its own save_pretrained"
        )
    return prefix
