"""Prepare a model for workers: check it, convert its weights if needed, and describe it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from seqembed.errors import ModelError
from seqembed.models.families import Family
from seqembed.models.hub import fetch
from seqembed.models.known import KNOWN
from seqembed.models.prepared import PreparedModel, sha256_of, write_prepared
from seqembed.models.source import (
    CONFIG,
    SAFETENSORS,
    TOKEN_FILES,
    TOKENIZER,
    list_weight_files,
)
from seqembed.models.weights.build import check_checkpoint, refuse_other_copies
from seqembed.models.weights.checkpoint import Checkpoint, read_checkpoint
from seqembed.models.weights.formats import State
from seqembed.models.weights.layout import is_left_out
from seqembed.storage.paths import expand
from seqembed.storage.publish import published


def prepare_model(name: str, source: str, output: Path, logger: logging.Logger) -> None:
    """Check a model, and write its description to `output`, resources/models/{name}.json.

    source: a known name, or the path of a Hugging Face folder or a file of the model's authors. The
    files of a known name are downloaded, unless the user put them into `{name}/original` beside
    `output`. Safetensors and tokenizer.json are used where they lie; other weights are converted to
    `{name}/model.safetensors` beside `output`. Logged are a licence that forbids commercial use,
    and the files with which the tokens of residues were compared.

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
    _log_facts(name, family, place, logger)
    original = checkpoint.path if weights != checkpoint.path else None
    model = PreparedModel(
        name=name,
        family=family.name,
        source=source,
        weights=str(weights),
        size=sum(file.stat().st_size for file in files),
        sha256=sha256_of(*files),
        architecture=checkpoint.architecture,
        max_length=family.max_length,
        **find_tokenizer(family, place),
        original=str(original) if original else None,
        original_sha256=sha256_of(*list_weight_files(original)) if original else None,
    )
    write_prepared(model, output)


def _log_facts(name: str, family: Family, place: Path, logger: logging.Logger) -> None:
    if family.non_commercial:
        words = "%s: its weights are under %s, which forbids commercial use"
        logger.warning(words, name, family.licence)
    if family.vocabulary:
        own = TOKENIZER if family.reads_tokenizer else None
        source = f"read from {own}" if own else "built in"
        others = [file for file in TOKEN_FILES if file != own and (place / file).exists()]
        compared = f"they agree with {' and '.join(others)}"
        nothing = "no file is there to compare them with"
        logger.info("%s: its tokens are %s; %s", name, source, compared if others else nothing)


def find_tokenizer(family: Family, place: Path) -> dict[str, str]:
    """Return PreparedModel's `tokenizer`, and its `tokenizer_file` if the family has one.

    place: the model's folder.
    """
    if family.vocabulary and not family.reads_tokenizer:
        return {"tokenizer": family.vocabulary.name}
    path = place / TOKENIZER
    return {"tokenizer": sha256_of(path), "tokenizer_file": str(path)}


def _convert(checkpoint: Checkpoint, path: Path) -> Path:
    if (path.parent / CONFIG).exists():
        message = "is a model's own folder, so the converted weights cannot be written there"
        raise ModelError(f"{path.parent}: {message}; give the model another name in `models`")
    with published(path) as temporary:
        state, layout = checkpoint.state, checkpoint.layout
        kept = {name: held for name, held in state.items() if not is_left_out(name, layout)}
        save_file(dict(_read_apart(kept)), temporary)
        # safetensors makes a file that only its owner can read, but groups share their models.
        temporary.chmod(0o644)
    return path


def _read_apart(state: State) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and tensors; tied weights get memory of their own, as safetensors requires.

    Other tensors are not copied: they stay in their file until their bytes are written.
    """
    seen = set()
    for name, stored in state.items():
        tensor = stored.read().contiguous()
        place = tensor.untyped_storage().data_ptr()
        yield name, tensor.clone() if place in seen else tensor
        seen.add(place)
