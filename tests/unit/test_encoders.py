"""What an encoder makes of a checkpoint's settings and buffers; test_families.py has its rows."""

from __future__ import annotations

import json

import pytest
import torch
from esm_in_plain import fair_layers, fair_model, save_fair
from models_in_plain import (
    assert_close,
    dnabert_folder,
    embed,
    encode,
    every_layer,
    load,
    plain_dnabert,
    random_proteins,
    random_tokens,
)
from safetensors.torch import load_file

from seqembed.errors import ModelError
from seqembed.models.architectures import Esm2Architecture
from seqembed.models.encoders.rotary import default_inv_freq
from seqembed.models.weights.checkpoint import read_checkpoint


@pytest.mark.parametrize("heads", [1, 2, 6, 8, 12])
def test_distances_of_any_number_of_heads_are_dnaberts(heads, tmp_path):
    folder = dnabert_folder(tmp_path, (3, 48, heads, 80))
    state = load_file(folder / "model.safetensors")
    tokens = random_tokens([1, 2, 90, 254, 255, 600])
    expected = [plain_dnabert(state, heads, t) for t in tokens]
    for layer, rows in enumerate(every_layer(folder, tokens)):
        assert_close(rows, [layers[layer] for layers in expected])


def test_stored_inv_freq_is_honoured(tmp_path):
    theirs = fair_model(Esm2Architecture(2, 32, 4, 128))
    for layer in theirs.layers:
        layer.self_attn.rot_emb.inv_freq.mul_(0.7)
    ours = load(save_fair(theirs, tmp_path / "model.pt"))
    tokens = encode(random_proteins([1, 37, 600]))
    assert_close(embed(ours, tokens), fair_layers(theirs, tokens, [2])[0])
    assert torch.equal(ours.half().inv_freq, default_inv_freq(8) * 0.7)


def test_eps_is_1e_12_where_the_config_does_not_say(tmp_path):
    folder = dnabert_folder(tmp_path, (3, 48, 12, 80))
    config = json.loads((folder / "config.json").read_text())
    del config["layer_norm_eps"]
    (folder / "config.json").write_text(json.dumps(config))
    assert read_checkpoint(folder).architecture.layer_norm_eps == 1e-12


@pytest.mark.parametrize("wrong", [(0, 32, 4, 8), (2, 30, 4, 8), (2, 32, 32, 8), (2, None, 4, 8)])
def test_an_architecture_checks_itself(wrong):
    with pytest.raises(ModelError):
        Esm2Architecture(*wrong)
