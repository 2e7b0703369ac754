"""Describe a known model by its small files, before its weights are downloaded."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from seqembed.models.families import FAMILIES
from seqembed.models.hub import fetch
from seqembed.models.known import KNOWN
from seqembed.models.prepare import find_tokenizer
from seqembed.models.prepared import PreparedModel
from seqembed.models.source import CONFIG, SAFETENSORS, TOKEN_FILES
from seqembed.models.weights.checkpoint import read_architecture


def preview_model(name: str, source: str, models: Path, logger: logging.Logger) -> PreparedModel:
    """Return what prepare_model would write, but for the weights, which are not downloaded.

    name: of the model. source: a known name. models: the folder resources/models. `weights` is "",
    and `size` 0; `sha256` is "" if it is not known before the weights are converted. Raises
    ModelError if config.json or the tokenizer cannot be downloaded, or is not the right file.
    """
    known = KNOWN[source]
    small = {file: sha for file, sha in known.files.items() if file in (CONFIG, *TOKEN_FILES)}
    place = fetch(replace(known, files=small), models / name / "original", logger)
    architecture = read_architecture(place)
    family = next(f for f in FAMILIES.values() if f.architecture is type(architecture))
    return PreparedModel(
        name=name,
        family=family.name,
        source=source,
        weights="",
        size=0,
        sha256=known.files.get(SAFETENSORS) or "",
        architecture=architecture,
        max_length=family.max_length,
        **find_tokenizer(family, place),
    )
