"""Descriptions of models without weights, for what only reads residues.

tests/data/dnabert_s/tokenizer.json is DNABERT-S's own (zhihan1996/DNABERT-S, Apache-2.0).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seqembed.models.architectures import DnabertArchitecture, Esm2Architecture, ProtT5Architecture
from seqembed.models.prepared import PreparedModel, sha256_of, write_prepared

DNA_TOKENIZER = Path(__file__).parents[1] / "data/dnabert_s/tokenizer.json"
COMMON = {"source": "none", "weights": "none.safetensors", "size": 1, "sha256": "ab" * 32}


def protein_model(**changes: Any) -> PreparedModel:
    """Return the description of an ESM-2."""
    fields = COMMON | {"max_length": 1022, "tokenizer": "esm2"} | changes
    architecture = Esm2Architecture(layers=1, width=16, heads=2, ffn_width=32)
    return PreparedModel(name="esm", family="esm2", architecture=architecture, **fields)


def dna_model(**changes: Any) -> PreparedModel:
    """Return the description of a DNABERT-S with the real tokenizer."""
    tokenizer = {"tokenizer": sha256_of(DNA_TOKENIZER), "tokenizer_file": str(DNA_TOKENIZER)}
    fields = COMMON | {"max_length": 1998} | tokenizer | changes
    architecture = DnabertArchitecture(layers=1, width=24, heads=12, ffn_width=48, vocabulary=4096)
    return PreparedModel(name="dna", family="dnabert_s", architecture=architecture, **fields)


def t5_model(**changes: Any) -> PreparedModel:
    """Return the description of a ProtT5."""
    fields = COMMON | {"max_length": 511, "tokenizer": "prot_t5"} | changes
    sizes = {"head_width": 4, "activation": "relu", "buckets": 32, "max_distance": 128}
    architecture = ProtT5Architecture(1, 16, 2, 32, **sizes, vocabulary=128)
    return PreparedModel(name="t5", family="prot_t5", architecture=architecture, **fields)


def write_protein_model(folder: Path, **changes: Any) -> Path:
    """Write the description of an ESM-2 to `folder`; return its path."""
    write_prepared(protein_model(**changes), folder / "esm.json")
    return folder / "esm.json"


def write_dna_model(folder: Path, **changes: Any) -> Path:
    """Write the description of a DNABERT-S to `folder`; return its path."""
    write_prepared(dna_model(**changes), folder / "dna.json")
    return folder / "dna.json"


def write_t5_model(folder: Path, **changes: Any) -> Path:
    """Write the description of a ProtT5 to `folder`; return its path."""
    write_prepared(t5_model(**changes), folder / "t5.json")
    return folder / "t5.json"
