"""Prepare a model once, so that workers find checked safetensors weights and how to read them."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from seqembed.errors import ModelError
from seqembed.models.encoders.encoder import Encoder
from seqembed.models.families import DNABERT_S, ESM2, Esm2Architecture
from seqembed.models.hub import fetch
from seqembed.models.known import KNOWN
from seqembed.models.prepared import (
    BUILT_IN,
    PreparedModel,
    changed,
    read_prepared,
    sha256_of,
    write_prepared,
)
from seqembed.models.source import CONFIG, SAFETENSORS, TOKENIZER, list_weight_files
from seqembed.models.weights.build import (
    Checkpoint,
    build_model,
    check_checkpoint,
    check_finite,
    read_checkpoint,
)
from seqembed.models.weights.copies import refuse_other_copies
from seqembed.models.weights.tensors import read_state
from seqembed.storage.paths import expand
from seqembed.storage.publish import published


def prepare_model(name: str, source: str, output: Path, logger: logging.Logger) -> None:
    """Check the model at `source` and describe it in `output`, resources/models/{name}.json.

    A known name is fetched first, or taken from `{name}/original` beside `output` where somebody
    put its files; a folder of such a name needs a separator in its path.

    Safetensors are used where they lie; other weights are converted to `{name}/model.safetensors`
    beside `output`. A tokenizer.json is used where it lies, too.

    Raises:
        ModelError: the source is no model of a known family that can be loaded.
    """
    if source in KNOWN:
        place = fetch(KNOWN[source], output.parent / name / "original", logger)
    else:
        place = Path(expand(source))
    checkpoint = read_checkpoint(place)
    # A bad model fails here, not on a GPU.
    check_checkpoint(checkpoint)
    check_finite(checkpoint)
    if place.is_dir():
        refuse_other_copies(place, checkpoint.state, checkpoint.path)
    weights, original = checkpoint.path, None
    if not weights.name.startswith(SAFETENSORS):
        original = weights
        weights = _convert(checkpoint, output.parent / name / SAFETENSORS)
    files = list_weight_files(weights)
    protein = isinstance(checkpoint.architecture, Esm2Architecture)
    family = ESM2 if protein else DNABERT_S
    tokenizer = None if protein else place / TOKENIZER
    model = PreparedModel(
        name=name,
        family=family.name,
        source=source,
        weights=str(weights),
        size=_size(files),
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
    """The model that `{model}.json` describes, up to `layer`, in eval mode and in `dtype`.

    Raises:
        ModelError: the description cannot be read, the weights are not those it describes, or
            the model has no such layer.
    """
    model = read_prepared(path)
    weights = Path(model.weights)
    if not weights.is_file():
        raise _missing(weights, path)
    files = list_weight_files(weights)
    for file in files:
        if not file.is_file():
            raise _missing(file, path)
    if _changed(model, files, path):
        raise changed(model, path)
    state = read_state(weights)
    checkpoint = Checkpoint(architecture=model.architecture, state=state, path=weights)
    return build_model(checkpoint, layer, dtype)


def _convert(checkpoint: Checkpoint, path: Path) -> Path:
    """Write the checkpoint's tensors, under their own names, as one safetensors file."""
    if (path.parent / CONFIG).exists():
        message = "is a model's own folder, so the converted weights cannot be written there"
        raise ModelError(f"{path.parent}: {message}; give the model another name in `models`")
    with published(path) as temporary:
        save_file({name: _own(held.read()) for name, held in checkpoint.state.items()}, temporary)
        # safetensors makes files for their owner only; a group shares its models.
        temporary.chmod(0o644)
    return path


def _own(tensor: Tensor) -> Tensor:
    # Tied weights share their storage, which safetensors refuses.
    return tensor.detach().clone().contiguous()


def _missing(file: Path, path: Path) -> ModelError:
    return ModelError(f"{file}: is missing; put it back, or remove {path} and run again")


def _size(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _changed(model: PreparedModel, files: list[Path], path: Path) -> bool:
    """Whether the weights differ from those described; read in full only where they may."""
    if _size(files) != model.size:
        return True
    # A file moved or copied in keeps an old mtime, but its ctime is new.
    stats = [file.stat() for file in files]
    touched = max(max(stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats)
    return touched >= path.stat().st_mtime_ns and sha256_of(*files) != model.sha256
