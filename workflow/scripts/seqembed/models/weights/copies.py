"""A Hugging Face folder that keeps its weights in more than one form: they have to be the same."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from seqembed.errors import ModelError
from seqembed.models.source import WEIGHTS
from seqembed.models.weights.encoder_names import plain_names
from seqembed.models.weights.tensors import FLOATS, State, Stored, read_state

_PREFIX = re.compile(r"^(esm|bert)\.")


def refuse_other_copies(folder: Path, state: State, path: Path) -> None:
    """Raises ModelError where another file of the folder has other values for a weight of `path`.

    Which of the two is meant, as when a fine-tuned model was saved over a downloaded one, nobody
    but the user knows. One weight is read at a time, and a form that cannot be read is passed over.
    """
    for other in (folder / name for name in WEIGHTS):
        if other == path or not other.exists():
            continue
        try:
            copy = _encoder(read_state(other))
        except ModelError:
            continue
        for name, held in _encoder(state).items():
            if name in copy and not _are_equal(held.read(), copy[name].read()):
                raise ModelError(
                    f"{folder}: {path.name} and {other.name} have other values for {name!r}; "
                    "remove the one that is not meant"
                )


def _encoder(state: State) -> dict[str, Stored]:
    """The encoder's tensors, by names without the prefix of a whole model."""
    found = ((_PREFIX.sub("", name), held) for name, held in plain_names(state).items())
    return {name: held for name, held in found if name.startswith(("embeddings.", "encoder."))}


def _are_equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, in the shorter of their dtypes."""
    if one.shape != other.shape:
        return False
    if one.dtype not in FLOATS.values() or other.dtype not in FLOATS.values():
        return bool((one == other).all())
    short = min(one.dtype, other.dtype, key=lambda dtype: dtype.itemsize)
    return bool((one.to(short) == other.to(short)).all())
