"""The table of known models holds whole commits and hashes, and files that our readers know."""

from __future__ import annotations

import hashlib
import re

import pytest

from seqembed.models.encoders.tokenization import ESM2_ALPHABET
from seqembed.models.known import KNOWN, KnownFile, KnownModel
from seqembed.models.source import INDEX

MODELS = pytest.mark.parametrize("model", KNOWN.values(), ids=KNOWN.keys())


def every_file(model: KnownModel) -> tuple[KnownFile, ...]:
    return model.files + model.weights


def test_these_models_are_known_and_where_they_are():
    assert {name: model.repository for name, model in KNOWN.items()} == {
        "esm2_t6_8M_UR50D": "facebook/esm2_t6_8M_UR50D",
        "esm2_t12_35M_UR50D": "facebook/esm2_t12_35M_UR50D",
        "esm2_t30_150M_UR50D": "facebook/esm2_t30_150M_UR50D",
        "esm2_t33_650M_UR50D": "facebook/esm2_t33_650M_UR50D",
        "esm2_t36_3B_UR50D": "facebook/esm2_t36_3B_UR50D",
        "esm2_t48_15B_UR50D": "facebook/esm2_t48_15B_UR50D",
        "DNABERT-S": "zhihan1996/DNABERT-S",
        "DNABERT-2": "zhihan1996/DNABERT-2-117M",
    }


@MODELS
def test_a_revision_is_a_whole_commit(model):
    assert re.fullmatch("[0-9a-f]{40}", model.revision)


@MODELS
def test_a_hash_is_whole_or_not_given(model):
    hashes = [file.sha256 for file in every_file(model) if file.sha256 is not None]
    assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in hashes)


def test_no_two_different_files_have_one_hash():
    hashes = {}
    for model in KNOWN.values():
        for file in every_file(model):
            if file.sha256 and file.name != "vocab.txt":
                assert hashes.setdefault(file.sha256, model.name) == model.name
    assert len({model.revision for model in KNOWN.values()}) == len(KNOWN)


@MODELS
def test_a_model_has_settings_a_tokenizer_and_weights(model):
    names = [file.name for file in every_file(model)]
    assert len(names) == len(set(names))
    tokenizer = "tokenizer.json" if model.name.startswith("DNABERT") else "vocab.txt"
    assert names[:2] == ["config.json", tokenizer]
    weights = [name for name in names[2:] if not re.search(r"-\d{5}-of-\d{5}", name)]
    known = r"(model\.safetensors|pytorch_model\.bin)" + f"({re.escape(INDEX)})?"
    assert weights and all(re.fullmatch(known, name) for name in weights)


@MODELS
def test_weights_in_one_file_have_a_hash(model):
    single = [f for f in every_file(model) if f.name in ("model.safetensors", "pytorch_model.bin")]
    assert all(file.sha256 for file in single)


def test_the_vocabulary_of_the_table_is_the_alphabet_of_the_encoder():
    known = {f.sha256 for m in KNOWN.values() for f in m.files if f.name == "vocab.txt"}
    assert known == {hashlib.sha256("\n".join(ESM2_ALPHABET).encode()).hexdigest(), None}
