"""Prepare a model for workers: check it, convert its weights if needed, and describe it."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from safetensors.torch import save_file

from seqembed.errors import ModelError
from seqembed.models.encoders.encoder import Encoder
from seqembed.models.hub import fetch
from seqembed.models.known import KNOWN
from seqembed.models.prepared import (
    BUILT_IN,
    PreparedModel,
    error_of_change,
    read_prepared,
    sha256_of,
    write_prepared,
)
from seqembed.models.source import CONFIG, SAFETENSORS, list_weight_files
from seqembed.models.weights.build import build_model, check_checkpoint, refuse_other_copies
from seqembed.models.weights.checkpoint import Checkpoint, read_checkpoint
from seqembed.models.weights.formats import read_state
from seqembed.storage.paths import expand
from seqembed.storage.publish import published


def prepare_model(name: str, source: str, output: Path, logger: logging.Logger) -> None:
    """Check a model, and write its description to `output`, resources/models/{name}.json.

    source: a known name, or the path of a Hugging Face folder or a fair-esm file. The files of a
    known name are downloaded, unless the user put them into `{name}/original` beside `output`.
    Safetensors and tokenizer.json are used where they lie; other weights are converted to
    `{name}/model.safetensors` beside `output`.

    Raises ModelError if the source is not a model of a known family, or cannot be loaded.
    """
    folder = output.parent / name
    known = KNOWN.get(source)
    place = fetch(known, folder / "original", logger) if known else Path(expand(source))
    checkpoint = read_checkpoint(place)
    check_checkpoint(checkpoint)
    if place.is_dir():
        refuse_other_copies(place, checkpoint)
    weights = checkpoint.path
    if not weights.name.startswith(SAFETENSORS):
        weights = _convert(checkpoint, folder / SAFETENSORS)
    family, files = checkpoint.layout.family, list_weight_files(weights)
    tokenizer = place / family.tokenizer if family.tokenizer else None
    original = checkpoint.path if weights != checkpoint.path else None
    model = PreparedModel(
        name=name,
        family=family.name,
        source=source,
        weights=str(weights),
        size=sum(file.stat().st_size for file in files),
        sha256=sha256_of(*files),
        architecture=checkpoint.architecture,
        tokenizer=sha256_of(tokenizer) if tokenizer else BUILT_IN,
        max_length=family.max_length,
        tokenizer_file=str(tokenizer) if tokenizer else None,
        original=str(original) if original else None,
        original_sha256=sha256_of(*list_weight_files(original)) if original else None,
    )
    write_prepared(model, output)


def load_prepared(path: Path, layer: int, dtype: torch.dtype = torch.float32) -> Encoder:
    """Return the encoder of a prepared model up to `layer`, in eval mode, its weights in `dtype`.

    path: the model's `{model}.json`. layer: 0 is the embedding layer. Raises ModelError if the
    file `path` cannot be read, the weights have changed, or the model lacks the layer.
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
    return build_model(checkpoint, layer, dtype)


def _convert(checkpoint: Checkpoint, path: Path) -> Path:
    if (path.parent / CONFIG).exists():
        message = "is a model's own folder, so the converted weights cannot be written there"
        raise ModelError(f"{path.parent}: {message}; give the model another name in `models`")
    with published(path) as temporary:
        # Copies: tied weights share their storage, which safetensors refuses.
        tensors = {
            name: held.read().clone(memory_format=torch.contiguous_format)
            for name, held in checkpoint.state.items()
        }
        save_file(tensors, temporary)
        # safetensors makes a file that only its owner can read, but groups share their models.
        temporary.chmod(0o644)
    return path
