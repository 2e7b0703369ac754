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
    prot = ("half_uniref50-enc", "uniref50", "bfd")
    rostlab = ("ProstT5", "ProstT5_fp16", *(f"prot_t5_xl_{name}" for name in prot))
    t5 = {name: f"Rostlab/{name}" for name in rostlab}
    ankh = ("ankh-base", "ankh-large", "ankh3-large", "ankh3-xl")
    t5 |= {name: f"ElnaggarLab/{name}" for name in ankh}
    assert {name: model.repository for name, model in KNOWN.items()} == esm2 | esm1 | esmc | t5 | {
        "DNABERT-S": "zhihan1996/DNABERT-S",
        "DNABERT-2": "zhihan1996/DNABERT-2-117M",
    }


@MODELS
def test_commits_and_hashes_are_whole(model):
    assert re.fullmatch("[0-9a-f]{40}", model.revision)
    assert all(re.fullmatch("[0-9a-f]{64}", hashed) for hashed in model.files.values() if hashed)


def test_no_two_different_files_have_one_hash():
    files = [model.files.items() for model in KNOWN.values()]
    shared = ("vocab.txt", "spiece.model")
    hashes = [h for pairs in files for name, h in pairs if h and name not in shared]
    assert len(hashes) == len(set(hashes))
    assert len({model.revision for model in KNOWN.values()}) == len(KNOWN)


# No hash of these weights on the hub is known.
NO_HASHES = re.compile("esm1|prot_t5_xl_bfd")
TOKENIZERS = {
    "DNABERT": "tokenizer.json",
    "ankh": "tokenizer.json",
    "esm1": "vocab.txt",
    "esm2": "vocab.txt",
    "Pro": "spiece.model",
    "pro": "spiece.model",
}


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
    assert bool(hashed) != bool(NO_HASHES.match(model.name))


def test_the_t5_of_one_group_have_one_file_of_tokens():
    """ProstT5 has ProtT5's pieces, and names in another file what it adds to them."""
    rostlab = [model for model in KNOWN.values() if model.repository.startswith("Rostlab/")]
    assert len({model.files["spiece.model"] for model in rostlab} - {None}) == 1
    added = [model.name for model in rostlab if "added_tokens.json" in model.files]
    assert added == ["ProstT5", "ProstT5_fp16"]


def test_the_vocabulary_of_the_table_is_the_alphabet_of_the_encoder():
    known = {model.files.get("vocab.txt") for model in KNOWN.values()} - {None}
    assert known == {hashlib.sha256("\n".join(ESM.tokens).encode()).hexdigest()}
