"""The table of known models holds whole commits and hashes, and files that our readers know."""

from __future__ import annotations

import hashlib
import re

import pytest

from seqembed.models.known import KNOWN
from seqembed.models.source import INDEX
from seqembed.models.vocabularies import ESM

MODELS = pytest.mark.parametrize("model", KNOWN.values(), ids=KNOWN.keys())


def test_these_models_are_known_and_where_they_are():
    sizes = ("t6_8M", "t12_35M", "t30_150M", "t33_650M", "t36_3B", "t48_15B")
    esm2 = {f"esm2_{size}_UR50D": f"facebook/esm2_{size}_UR50D" for size in sizes}
    esm1 = {f"esm1v_t33_650M_UR90S_{n}": f"facebook/esm1v_t33_650M_UR90S_{n}" for n in range(1, 6)}
    esm1["esm1b_t33_650M_UR50S"] = "facebook/esm1b_t33_650M_UR50S"
    esmc = {f"esmc_{size.lower()}": f"biohub/ESMC-{size}" for size in ("300M", "600M", "6B")}
    assert {name: model.repository for name, model in KNOWN.items()} == esm2 | esm1 | esmc | {
        "DNABERT-S": "zhihan1996/DNABERT-S",
        "DNABERT-2": "zhihan1996/DNABERT-2-117M",
    }


@MODELS
def test_commits_and_hashes_are_whole(model):
    assert re.fullmatch("[0-9a-f]{40}", model.revision)
    assert all(re.fullmatch("[0-9a-f]{64}", hashed) for hashed in model.files.values() if hashed)


def test_no_two_different_files_have_one_hash():
    files = [model.files.items() for model in KNOWN.values()]
    hashes = [h for pairs in files for name, h in pairs if h and name != "vocab.txt"]
    assert len(hashes) == len(set(hashes))
    assert len({model.revision for model in KNOWN.values()}) == len(KNOWN)


# Of ESM-1b and ESM-1v, no hash of a file on the hub is known.
NO_HASHES = re.compile("esm1")
TOKENIZERS = {"DNABERT": "tokenizer.json", "esm2": "vocab.txt", "esm1": "vocab.txt"}


@MODELS
def test_a_model_has_settings_a_tokenizer_and_weights(model):
    names = list(model.files)
    tokenizers = [file for begin, file in TOKENIZERS.items() if model.name.startswith(begin)]
    assert names[: 1 + len(tokenizers)] == ["config.json", *tokenizers]
    known = r"(model\.safetensors|pytorch_model\.bin)" + f"({re.escape(INDEX)})?"
    weights = [name for name in names if re.fullmatch(known, name)]
    assert len(weights) == 1
    # Weights in one file have a hash.
    hashed = weights[0].endswith(INDEX) or model.files[weights[0]]
    assert hashed or (NO_HASHES.match(model.name) and not any(model.files.values()))


def test_the_vocabulary_of_the_table_is_the_alphabet_of_the_encoder():
    known = {model.files.get("vocab.txt") for model in KNOWN.values()} - {None}
    assert known == {hashlib.sha256("\n".join(ESM.tokens).encode()).hexdigest()}
