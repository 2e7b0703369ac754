"""Load a prepared model's encoder. Workers import this module, but nothing that fetches models."""

from __future__ import annotations

from pathlib import Path

import torch

from seqembed.errors import ModelError
from seqembed.models.encoders.encoder import Encoder
from seqembed.models.prepared import error_of_change, read_prepared, sha256_of
from seqembed.models.source import list_weight_files
from seqembed.models.weights.build import build_model
from seqembed.models.weights.checkpoint import Checkpoint
from seqembed.models.weights.formats import read_state


def load_prepared(
    path: Path,
    layer: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Encoder:
    """Return the encoder of a prepared model up to `layer`, in eval mode, as build_model makes it.

    path: the model's `{model}.json`. layer: 0 is the embedding layer. dtype, device: those of the
    weights. Raises ModelError if the file `path` cannot be read, the weights have changed, or the
    model lacks the layer.
    """
    model = read_prepared(path)
    weights = Path(model.weights)
    files = list_weight_files(weights) if weights.is_file() else [weights]
    for file in files:
        if not file.is_file():
            raise ModelError(f"{file}: is missing; put it back, or remove {path} and run again")
    stats = [file.stat() for file in files]
    # A moved or copied file may keep an old mtime, but its ctime is new.
    touched = max(max(stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats)
    same = touched < path.stat().st_mtime_ns or sha256_of(*files) == model.sha256
    if not same or sum(stat.st_size for stat in stats) != model.size:
        raise error_of_change(model, path)
    state = read_state(weights)
    checkpoint = Checkpoint(architecture=model.architecture, state=state, path=weights)
    return build_model(checkpoint, layer, dtype, device)
