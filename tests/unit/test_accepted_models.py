"""Models that are read although their files hold more, or name it otherwise, than the encoder."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from esm.model.esm2 import ESM2 as FairEsm2
from models_in_plain import (
    assert_same,
    dnabert_folder,
    embed,
    encode,
    random_tokens,
    randomise,
    rename,
)
from safetensors.torch import load_file, save_file, save_model
from t5_in_plain import small_t5, whole_t5
from torch import Tensor

from seqembed.errors import ModelError
from seqembed.models.architectures import Esm2Architecture
from seqembed.models.encoders.encoder import Encoder
from seqembed.models.encoders.tokenization import ResidueTokenizer
from seqembed.models.load import load_prepared
from seqembed.models.prepare import prepare_model
from seqembed.models.prepared import read_prepared
from seqembed.models.vocabularies import PROT_T5
from seqembed.models.weights.build import build_model
from seqembed.models.weights.checkpoint import read_checkpoint
from seqembed.models.weights.esm2 import KNOWN_HEADS

BUNDLED = Path(__file__).parents[1] / "data/esm2_random"
LOGGER = logging.getLogger("seqembed.tests")
SEQUENCES = [b"MKLVINGKTLKGEITIEGAVDAATAEKIFKQYANDNGIDGEWTYDDATKTFTVTEX", b"MK"]
State = dict[str, Tensor]


def load(source: Path, folder: Path) -> Encoder:
    """The model as a worker gets it, prepared in `folder`."""
    output = folder / "prepared.json"
    prepare_model("mine", str(source), output, LOGGER)
    return load_prepared(output, read_prepared(output).architecture.layers)


def rows(model: Encoder, tokens: list[Tensor]) -> list[Tensor]:
    return [embed(model, [one])[0] for one in tokens]


def with_prefix(prefix: str, *more: str) -> Callable[[State], State]:
    """The encoder's names below a prefix, and more weights beside, which need not be finite."""
    added = {name: torch.full((3,), float("nan")) for name in more}
    return lambda state: {prefix + name: tensor for name, tensor in state.items()} | added


def wrapped_within(state: State) -> State:
    return {f"esm.{n.replace('encoder.', 'encoder._orig_mod.', 1)}": t for n, t in state.items()}


LM_HEAD = [f"lm_head.{n}" for n in ("bias", "dense.weight", "layer_norm.bias", "decoder.weight")]
# What transformers 4 and 5 save beside the encoder, for each of its classes, and what users add.
ESM2 = {
    "EsmModel's pooler": with_prefix("", "pooler.dense.weight", "contact_head.regression.bias"),
    "EsmForMaskedLM": with_prefix("esm.", *LM_HEAD, "esm.contact_head.regression.weight"),
    "EsmForSequenceClassification": with_prefix(
        "esm.", "classifier.dense.bias", "classifier.out_proj.weight", "esm.pooler.dense.bias"
    ),
    "EsmForTokenClassification": with_prefix("esm.", "classifier.weight", "classifier.bias"),
    "the official folders": with_prefix(
        "esm.", "esm.embeddings.position_ids", "esm.embeddings.position_embeddings.weight"
    ),
    "a head of the user's own": with_prefix("esm.", "regressor.0.weight", "head.1.bias"),
    "a head with weight_norm": with_prefix("esm.", "head.parametrizations.weight.original0"),
    "a head beside a bare encoder": with_prefix("", "regression_head.2.bias", "score.weight"),
    "DataParallel": with_prefix("module."),
    "DataParallel of a classifier": with_prefix("module.esm.", "module.classifier.weight"),
    "torch.compile": with_prefix("_orig_mod."),
    "torch.compile in DDP": with_prefix("module._orig_mod.esm."),
    "torch.compile of the layers": wrapped_within,
    "FSDP": with_prefix("_fsdp_wrapped_module.esm."),
}
DNABERT = {
    "DNABERT-2": with_prefix(
        "bert.", "cls.predictions.bias", "cls.predictions.decoder.weight", "bert.pooler.dense.bias"
    ),
    "DNABERT-S": with_prefix("", "pooler.dense.weight", "embeddings.position_ids"),
    "BertForSequenceClassification": with_prefix("bert.", "classifier.weight", "qa_outputs.bias"),
    "DNABERT in DataParallel": with_prefix("module.bert."),
}
WORDS = "shared.weight", "encoder.embed_tokens.weight"
T5 = {
    "T5ForConditionalGeneration": with_prefix(
        "",
        "lm_head.weight",
        "decoder.embed_tokens.weight",
        "decoder.block.0.layer.2.layer_norm.weight",
    ),
    "T5ForTokenClassification": with_prefix("transformer.", "classifier.weight"),
    "T5ForSequenceClassification": with_prefix(
        "transformer.",
        "transformer.decoder.final_layer_norm.weight",
        "classification_head.dense.bias",
    ),
    "a T5's words by the encoder's name": lambda state: rename(state, {WORDS[0]: WORDS[1]}),
    "a T5's words by both names": lambda state: state | {WORDS[1]: state[WORDS[0]].clone()},
    "a T5 in DataParallel": with_prefix("module."),
}


def plain_model(name: str, folder: Path) -> tuple[Path, list[Tensor]]:
    """The folder of a model as its authors name its weights, and tokens to embed."""
    if name in DNABERT:
        return dnabert_folder(folder, (1, 48, 12, 80)), random_tokens([1, 30])
    if name in T5:
        small_t5().save_pretrained(folder)
        return folder, encode(SEQUENCES, ResidueTokenizer(PROT_T5))
    return BUNDLED, encode(SEQUENCES)


@pytest.mark.parametrize("name", ESM2 | DNABERT | T5)
def test_a_model_is_read_whatever_head_it_has(name, tmp_path):
    plain, tokens = plain_model(name, tmp_path / "model")
    source = shutil.copytree(plain, tmp_path / "source")
    change = (ESM2 | DNABERT | T5)[name]
    save_file(change(load_file(plain / "model.safetensors")), source / "model.safetensors")
    expected = rows(load(plain, tmp_path / "plain"), tokens)
    assert_same(rows(load(source, tmp_path), tokens), expected)


def test_a_t5s_words_may_have_the_decoders_name_alone(tmp_path):
    """save_model keeps the first name, by the alphabet, of weights that are one."""
    (tmp_path / "whole").mkdir()
    model, path = small_t5(), tmp_path / "whole/model.safetensors"
    save_model(whole_t5(model), path)
    assert [name for name in load_file(path) if "embed" in name or "shared" in name] == [
        "decoder.embed_tokens.weight"
    ]
    model.config.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "encoder")
    tokens = encode(SEQUENCES, ResidueTokenizer(PROT_T5))
    expected = rows(load(tmp_path / "encoder", tmp_path), tokens)
    assert_same(rows(load(tmp_path / "whole", tmp_path), tokens), expected)


@pytest.mark.parametrize("distance", [128, 20])
def test_a_t5s_settings_may_be_left_to_transformers(distance, tmp_path):
    """As on the hub: config.json has no more than the sizes, and what differs from the defaults."""
    small_t5(max_distance=distance).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    expected = read_checkpoint(tmp_path).architecture
    kept = {name: value for name, value in config.items() if "relative" not in name}
    for name in ("feed_forward_proj", "dense_act_fn", "is_gated_act", "layer_norm_epsilon"):
        del kept[name]
    if distance != 128:
        kept["relative_attention_max_distance"] = distance
    path.write_text(json.dumps(kept))
    assert read_checkpoint(tmp_path).architecture == expected


@pytest.fixture(scope="module")
def small() -> FairEsm2:
    """fair-esm's model of the smallest official size, its weights random."""
    return randomise(FairEsm2(6, 320, 20))


def test_rotary_frequencies_of_other_heads_are_refused(small, tmp_path):
    state = {n: t[:4] if "inv_freq" in n else t for n, t in small.state_dict().items()}
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(ModelError, match=r"x.pt: .*inv_freq' has shape .4,., but must have .8,."):
        load(tmp_path / "x.pt", tmp_path)


@pytest.mark.parametrize("size", KNOWN_HEADS)
def test_the_official_sizes_are_possible(size):
    layers, width = size
    sizes = {"layers": layers, "width": width, "heads": KNOWN_HEADS[size], "ffn_width": 4 * width}
    assert Esm2Architecture(**sizes).head_dim in (16, 24, 32, 64, 128)


def test_an_older_description_does_not_let_an_adapter_through(tmp_path):
    """Workers look at the names, too: what an earlier version prepared is no exception."""
    source = shutil.copytree(BUNDLED, tmp_path / "esm")
    state = load_file(BUNDLED / "model.safetensors")
    state["encoder.layer.0.attention.self.query.lora_A"] = torch.ones(4, 64)
    save_file(state, source / "model.safetensors")
    with pytest.raises(ModelError, match="of an adapter"):
        build_model(read_checkpoint(source), 0)


def test_two_forms_of_the_same_weights(tmp_path):
    """As the hub has them; in the other, shorter numbers and a head may stand."""
    folder = shutil.copytree(BUNDLED, tmp_path / "esm")
    state = load_file(folder / "model.safetensors")
    half = {f"esm.{name}": tensor.to(torch.bfloat16) for name, tensor in state.items()}
    torch.save(half | {"classifier.weight": torch.ones(2, 2)}, folder / "pytorch_model.bin")
    prepare_model("mine", str(folder), tmp_path / "mine.json", LOGGER)
    assert read_prepared(tmp_path / "mine.json").weights == str(folder / "model.safetensors")
