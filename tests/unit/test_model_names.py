"""Other spellings of known models, and what is said of models that are not known."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqembed.errors import ConfigError
from seqembed.models.known import KNOWN
from seqembed.models.names import explain_missing_source, get_model_source, known_name
from seqembed.settings.schema import complete, get_datasets


@pytest.mark.parametrize("model", KNOWN.values(), ids=KNOWN)
def test_a_repository_means_its_known_name(model):
    for text in (model.repository, f"https://huggingface.co/{model.repository}/", model.name):
        config = complete({"fasta": "a.faa", "model": text})
        assert get_datasets(config)["a"].model == model.name


def test_an_unknown_repository_is_no_known_name():
    assert known_name("facebook/esm2") is None
    assert known_name("someone/esm2_t6_8M_UR50D") is None


def test_a_repository_under_models_is_the_known_model_unless_the_folder_is_there(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    models = {"x": "zhihan1996/DNABERT-2-117M"}
    assert get_model_source("x", models) == "DNABERT-2"
    Path("zhihan1996/DNABERT-2-117M").mkdir(parents=True)
    assert get_model_source("x", models) == "zhihan1996/DNABERT-2-117M"


def _message(model: str) -> str:
    with pytest.raises(ConfigError) as caught:
        get_datasets(complete({"fasta": "a.faa", "model": model}))
    return str(caught.value)


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("esm1_t6_43M_UR50S", "ESM-1"),
        ("esm_msa1b_t12_100M_UR50S", "MSA Transformer"),
        ("Rostlab/prot_bert", "ProtBERT"),
        ("zhihan1996/DNA_bert_6", "the first DNABERT"),
        ("Synthyra/ESMplusplus_small", "ESM++"),
        ("EvolutionaryScale/esm3-sm-open-v1", "ESM-3"),
        ("InstaDeepAI/nucleotide-transformer-v2-50m-multi-species", "Nucleotide Transformer"),
    ],
)
def test_families_that_are_not_read_are_named(model, family):
    message = _message(model)
    assert f"looks like {family}, which cannot be read yet" in message
    assert "hf download" not in message
    assert f"looks like {family}, which cannot be read yet" in explain_missing_source("x", model)


@pytest.mark.parametrize(
    "model", [*KNOWN, "lhallee/my_esm2", "EvolutionaryScale/esmc-300m-2024-12"]
)
def test_families_that_are_read_are_not_among_them(model):
    assert "cannot be read" not in explain_missing_source("x", model)


def test_of_an_unknown_repository_the_advice_can_be_followed():
    message = _message("lhallee/my.esm2")
    assert "`hf download lhallee/my.esm2 --local-dir my.esm2`" in message
    assert "model=my.esm2 'models={my.esm2: my.esm2}'" in message
    assert message.endswith("models:\n  my.esm2: my.esm2")
    config = {"fasta": "a.faa", "model": "my.esm2", "models": {"my.esm2": "my.esm2"}}
    assert get_datasets(complete(config))["a"].model == "my.esm2"


def test_a_path_that_is_not_there_may_have_been_a_repository():
    message = explain_missing_source("x", "lhallee/my_esm2")
    assert message.startswith("models: x: lhallee/my_esm2 does not exist")
    assert "`hf download lhallee/my_esm2 --local-dir my_esm2`" in message


def test_for_a_part_of_a_known_name_the_whole_is_suggested():
    assert "Did you mean esm2_t30_150M_UR50D? " in _message("150M")


# The names that ProtSpace, bio_embeddings and the package ankh give to models, and other spellings.
@pytest.mark.parametrize(
    ("near", "hint"),
    [
        ("ESMC_300M", "esmc_300m"),
        ("esmc-300m", "esmc_300m"),
        ("prot_t5", "prot_t5_xl_half_uniref50-enc or prot_t5_xl_uniref50 or prot_t5_xl_bfd"),
        ("ProtT5", "prot_t5_xl_half_uniref50-enc or prot_t5_xl_uniref50 or prot_t5_xl_bfd"),
        ("prottrans_t5_xl_u50", "prot_t5_xl_uniref50"),
        ("prottrans_t5_bfd", "prot_t5_xl_bfd"),
        ("prost_t5", "ProstT5 or ProstT5_fp16"),
        ("prostt5", "ProstT5 or ProstT5_fp16"),
        ("ankh_base", "ankh-base"),
        ("ankh_large", "ankh-large"),
        ("Ankh3_Large", "ankh3-large"),
        ("ankh", "ankh3-xl or ankh-base or ankh-large"),
    ],
)
def test_another_spelling_leads_to_the_known_name(near, hint):
    assert known_name(near) is None
    assert f"Did you mean {hint}? " in _message(near)


def test_a_part_that_many_names_have_is_no_hint():
    assert "Did you mean" not in _message("esm2")


def test_the_users_own_names_are_suggested_too():
    config = complete({"fasta": "a.faa", "model": "my-model", "models": {"My_model": "a"}})
    with pytest.raises(ConfigError, match=r"Did you mean My_model\?"):
        get_datasets(config)
