"""ESM-2 checkpoints (.pt) of fair-esm."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqembed.errors import ModelError, named
from seqembed.models.architecture import Esm2Architecture
from seqembed.models.tensors import State, check_state_dict, load_pickled


def read_fair_esm(path: Path) -> tuple[Esm2Architecture, State]:
    """The architecture and the tensors of a `.pt` file; ModelError if it is no ESM-2's."""
    checkpoint = load_pickled(path)
    if not isinstance(checkpoint, Mapping):
        raise ModelError(f"{path}: is not a fair-esm checkpoint")
    architecture = _architecture(path, _settings(path, checkpoint))
    return architecture, check_state_dict(path, checkpoint.get("model"))


def _architecture(path: Path, settings: Mapping[str, Any]) -> Esm2Architecture:
    width = settings.get("encoder_embed_dim")
    sizes: dict[str, Any] = {
        "layers": settings.get("encoder_layers"),
        "width": width,
        "heads": settings.get("encoder_attention_heads"),
        # fair-esm's ESM2 is always four times as wide inside.
        "ffn_width": 4 * width if isinstance(width, int) else None,
        "token_dropout": settings.get("token_dropout", False),
    }
    with named(path):
        return Esm2Architecture(**sizes)


def _settings(path: Path, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The model's settings: cfg["model"] in ESM-2's checkpoints, args in older ones."""
    cfg = checkpoint.get("cfg")
    found = cfg.get("model") if isinstance(cfg, Mapping) else checkpoint.get("args")
    if isinstance(found, argparse.Namespace):
        found = vars(found)
    if not isinstance(found, Mapping):
        raise ModelError(f"{path}: says nothing of its architecture (no cfg or args)")
    return dict(found)
