"""Models that must be refused, as their rows would be wrong or there are none: how to make each.

Each is made in the working folder from a small ESM-2, by other people's code where that has one.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import esm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

DATA = Path(__file__).parents[1] / "data"
LAYER = "encoder.layer.0.attention.self.query"
FOLDER = Path("esm")
FILE = Path("m.pt")
Change = Callable[[dict[str, Tensor]], Any]
# What makes a model and returns its source, the file that is blamed, and a phrase of the message.
Case = tuple[Callable[[], str], str, str]


def folder(change: Change = lambda state: None, **config: Any) -> str:
    """A Hugging Face folder whose weights, by name, were changed."""
    shutil.copytree(DATA / "esm2_random", FOLDER)
    return changed(change, config)


def dnabert(change: Change = lambda state: None, **config: Any) -> str:
    """A DNABERT's folder of one narrow layer, changed."""
    shutil.copytree(DATA / "dnabert_s", FOLDER)
    parts = {
        "embeddings.word_embeddings": (4096, 8),
        "embeddings.token_type_embeddings": (2, 8),
        "embeddings.LayerNorm": (8,),
        "encoder.layer.0.attention.self.Wqkv": (24, 8),
        "encoder.layer.0.attention.output.dense": (8, 8),
        "encoder.layer.0.attention.output.LayerNorm": (8,),
        "encoder.layer.0.mlp.gated_layers": (32, 8),
        "encoder.layer.0.mlp.wo": (8, 16),
        "encoder.layer.0.mlp.layernorm": (8,),
    }
    state = {f"{name}.weight": torch.ones(shape) for name, shape in parts.items()}
    biased = (name for name in parts if not name.endswith(("embeddings", "gated_layers")))
    state |= {f"{name}.bias": torch.ones(parts[name][:1]) for name in biased}
    save_file(state, FOLDER / "model.safetensors")
    sizes = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2}
    return changed(change, sizes | {"intermediate_size": 16} | config)


def changed(change: Change, config: dict[str, Any]) -> str:
    """FOLDER with changed weights and settings; a setting of None is taken away."""
    path = FOLDER / "config.json"
    settings = json.loads(path.read_text()) | config
    path.write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))
    state = load_file(FOLDER / "model.safetensors")
    state = change(state) or state
    save_file({name: t.clone() for name, t in state.items()}, FOLDER / "model.safetensors")
    return str(FOLDER)


def without(*names: str) -> str:
    """A folder that lacks files."""
    folder()
    for name in names:
        os.remove(FOLDER / name)
    return str(FOLDER)


def holding(name: str, content: str = "{}", *lacking: str) -> str:
    """A folder with one file more or another one, and without some."""
    without(*lacking)
    (FOLDER / name).write_text(content)
    return str(FOLDER)


def folder_of_two(change: Change) -> str:
    """A folder with its weights, and changed ones as a pickle beside them."""
    source = folder()
    state = load_file(FOLDER / "model.safetensors")
    change(state)
    named = {f"esm.{name}": tensor for name, tensor in state.items()}
    torch.save(named, FOLDER / "pytorch_model.bin")
    return source


def split(weight_map: dict[str, str] | None = None, change: Change = lambda state: None) -> str:
    """A folder with its weights in a part, changed after the index was written."""
    folder()
    state, part = load_file(FOLDER / "model.safetensors"), "model-00001-of-00001.safetensors"
    os.remove(FOLDER / "model.safetensors")
    index = {"weight_map": dict.fromkeys(state, part) if weight_map is None else weight_map}
    (FOLDER / "model.safetensors.index.json").write_text(json.dumps(index))
    change(state)
    save_file(state, FOLDER / part)
    return str(FOLDER)


def adding(*names: str, shape: tuple[int, ...] = (4, 64)) -> Change:
    return lambda state: state.update({name: torch.ones(shape) for name in names})


def dropping(word: str) -> Change:
    return lambda state: {name: tensor for name, tensor in state.items() if word not in name}


def prefixed(prefix: str, *more: str) -> Change:
    added = {name: torch.ones(2) for name in more}
    return lambda state: {prefix + name: tensor for name, tensor in state.items()} | added


def casting(name: str, dtype: torch.dtype) -> Change:
    return lambda state: state.update({name: state[name].to(dtype)})


def esm2() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return dict(esm.model.esm2.ESM2(1, 16, 2).state_dict())


def fair(change: Change = lambda state: None) -> str:
    """A file of fair-esm's with an ESM-2 whose weights were changed."""
    state = esm2()
    state = change(state) or state
    named = {f"encoder.sentence_encoder.{name}": tensor for name, tensor in state.items()}
    cfg = argparse.Namespace(
        encoder_layers=1, encoder_embed_dim=16, encoder_attention_heads=2, token_dropout=True
    )
    return saved({"cfg": {"model": cfg}, "model": named})


def saved(content: Any, path: Path = FILE, **options: Any) -> str:
    torch.save(content, path, **options)
    return str(path)


def old_fair(model: torch.nn.Module, arch: str, prefix: str, words: str) -> str:
    """A file as fair-esm's older models have it; words: before the names of its settings."""
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    sizes = {"layers": 1, "embed_dim": 16, "attention_heads": 2}
    args = argparse.Namespace(arch=arch, **{f"{words}_{name}": n for name, n in sizes.items()})
    return saved({"args": args, "model": state})


def protein_bert(arch: str, **settings: Any) -> torch.nn.Module:
    sizes = {"layers": 1, "embed_dim": 16, "ffn_embed_dim": 32, "attention_heads": 2}
    options = {"max_positions": 8, "token_dropout": True, "logit_bias": True, "final_bias": True}
    args = argparse.Namespace(arch=arch, **sizes, **options, **settings)
    return esm.ProteinBertModel(args, esm.Alphabet.from_architecture(arch))


def esm1(arch: str = "protein_bert_base") -> str:
    return old_fair(protein_bert(arch), arch, "decoder.", "decoder")


def esm1v(before: bool = False) -> torch.nn.Module:
    return protein_bert("roberta_large", emb_layer_norm_before=before)


def esm1v_file(before: bool = False, arch: str = "roberta_large") -> str:
    return old_fair(esm1v(before), arch, "encoder.sentence_encoder.", "encoder")


def esm1v_as_esm2() -> str:
    """ESM-1v with what an ESM-2's file says of itself."""
    return fair(lambda state: dict(esm1v().state_dict()))


def msa() -> torch.nn.Module:
    sizes = {"layers": 1, "embed_dim": 16, "ffn_embed_dim": 32, "attention_heads": 2}
    rest = {"max_positions": 8, "dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    more = {"embed_positions_msa": True, "embed_positions_msa_dim": 16, "max_tokens": 64}
    args = argparse.Namespace(arch="msa_transformer", logit_bias=True, **sizes, **rest, **more)
    return esm.MSATransformer(args, esm.Alphabet.from_architecture("msa_transformer"))


def esm1v_in_hugging_faces_words() -> str:
    """A state dict that has ESM-2's names, its size, and learned positions."""
    state = esm2_names(6, 8)
    state = {name: tensor for name, tensor in state.items() if "inv_freq" not in name}
    return saved(state | {"embeddings.position_embeddings.weight": torch.ones(10, 8)})


def esmfold(settings: Any) -> str:
    state = {"trunk.blocks.0.seq_attention.proj.weight": torch.ones(2, 2)}
    return saved({"cfg": {"model": settings}, "model": state})


class Payload:
    """Writes a file where it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


def esm2_names(layers: int, width: int) -> dict[str, Tensor]:
    """A state dict of Hugging Face's names."""
    from transformers import EsmConfig, EsmModel

    sizes = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": 2}
    config = EsmConfig(
        vocab_size=33, intermediate_size=4 * width, position_embedding_type="rotary",
        emb_layer_norm_before=False, **sizes,
    )  # fmt: skip
    return dict(EsmModel(config).state_dict())


def written(content: bytes, path: Path = FILE) -> str:
    """Bytes in place of weights; the source, a folder for the names of one."""
    if path != FILE:
        without("model.safetensors")
    path.write_bytes(content)
    return str(FILE if path == FILE else FOLDER)


def cut(source: str, path: Path) -> str:
    """A model whose file lacks its end."""
    os.truncate(path, path.stat().st_size // 2)
    return source


def pack_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("esm/model.safetensors"), io.BytesIO())
    return buffer.getvalue()


def pack_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("esm/model.safetensors", "x")
    return buffer.getvalue()


def torchscript() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), buffer)
    return buffer.getvalue()


def pickle_as_safetensors() -> str:
    without("model.safetensors")
    torch.save({"x": torch.ones(2)}, FOLDER / "model.safetensors")
    return str(FOLDER)


def adapter_alone(name: str) -> str:
    """As PEFT's save_pretrained leaves it: neither config.json nor weights of a model."""
    FOLDER.mkdir()
    (FOLDER / name).write_text("{}")
    return str(FOLDER)


def optimizer() -> str:
    return saved(torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]).state_dict())


def contacts() -> str:
    kinds = {"weight": torch.ones(1, 2), "bias": torch.ones(1)}
    return saved({"model": {f"contact_head.regression.{kind}": t for kind, t in kinds.items()}})


def other_rotary(state: dict[str, Tensor]) -> None:
    """Two layers that turn by different angles."""
    for number in range(2):
        name = f"encoder.layer.{number}.attention.self.rotary_embeddings.inv_freq"
        state[name] = torch.full((8,), 1.0 + number)


def without_specials() -> str:
    """A DNABERT whose tokenizer puts nothing around a sequence."""
    source = dnabert()
    content = json.loads((FOLDER / "tokenizer.json").read_text())
    (FOLDER / "tokenizer.json").write_text(json.dumps(content | {"post_processor": None}))
    return source


def without_tokenizer() -> str:
    source = dnabert()
    os.remove(FOLDER / "tokenizer.json")
    return source


def spoiled(name: str, value: float, count: int | None = 1) -> Change:
    def spoil(state: dict[str, Tensor]) -> None:
        state[name].view(-1)[:count] = value

    return spoil


def in_half(state: dict[str, Tensor]) -> Mapping[str, Tensor]:
    """In fp16 a weight's values may be finite and their sum is not; one infinity is real."""
    halves = {name: tensor.half() for name, tensor in state.items()}
    halves["encoder.layer.2.output.dense.weight"][:] = 60_000
    halves["encoder.layer.3.output.dense.bias"][5] = float("-inf")
    return halves


def too_large(state: dict[str, Tensor]) -> None:
    """An fp64 value that fp32 does not reach."""
    name = "encoder.layer.1.output.dense.bias"
    state[name] = state[name].double()
    state[name][0] = 1e300


def legacy_twice(state: dict[str, Tensor]) -> None:
    name = "encoder.layer.0.LayerNorm"
    state[f"{name}.gamma"] = state[f"{name}.weight"].clone()


def quantised_beside_floats(state: dict[str, Tensor]) -> None:
    """As 8-bit weights written out in fp16 leave it: their scale is still to be applied."""
    state[f"{LAYER}.SCB"] = torch.ones(64)


def pruned(state: dict[str, Tensor]) -> None:
    state[f"{LAYER}.weight_orig"] = state.pop(f"{LAYER}.weight")
    state[f"{LAYER}.weight_mask"] = torch.ones(64, 64)


def both_namings(state: dict[str, Tensor]) -> Mapping[str, Tensor]:
    other = {f"encoder.sentence_encoder.{name}": tensor for name, tensor in esm2().items()}
    return {f"esm.{name}": tensor for name, tensor in state.items()} | other


def peft(state: dict[str, Tensor]) -> Mapping[str, Tensor]:
    names = {name.replace("query.", "query.base_layer."): name for name in state}
    made = {f"base_model.model.esm.{new}": state[old] for new, old in names.items()}
    made[f"base_model.model.esm.{LAYER}.lora_A.default.weight"] = torch.ones(4, 64)
    return made


WEIGHTS = "esm/model.safetensors"
CONFIG = "esm/config.json"
INDEX = "esm/model.safetensors.index.json"
PART = "esm/model-00001-of-00001.safetensors"
BIN = Path("esm/pytorch_model.bin")
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0f\nsize 30000000\n"
PAGE = b"\n<!DOCTYPE html><html><title>Sign in</title></html>\n"
NAN, INFINITY = float("nan"), float("inf")
DENSE = "encoder.layer.1.output.dense.weight"


def in_file(make: Callable[[], str], phrase: str) -> Case:
    return make, "m.pt", phrase


def weights(change: Change, phrase: str) -> Case:
    return lambda: folder(change), WEIGHTS, phrase


def config(phrase: str, **settings: Any) -> Case:
    return lambda: folder(**settings), CONFIG, phrase


def dna_config(phrase: str, **settings: Any) -> Case:
    return lambda: dnabert(**settings), CONFIG, phrase


def form(content: Callable[[], bytes], phrase: str, path: Path = FILE) -> Case:
    return lambda: written(content(), path), str(path), f"it is {phrase}"


OTHER_MODELS: dict[str, Case] = {
    "ESM-1b": in_file(lambda: esm1v_file(True), "is ESM-1b or ESM-1v"),
    "ESM-1v": in_file(esm1v_file, "is ESM-1b or ESM-1v"),
    "ESM-1v, without a word on its kind": in_file(
        lambda: esm1v_file(arch="mine"), "is ESM-1b or ESM-1v"
    ),
    "ESM-1v that says it is an ESM-2": in_file(esm1v_as_esm2, "is ESM-1b or ESM-1v"),
    "ESM-1": in_file(esm1, "is ESM-1"),
    "ESM-1, its names alone": in_file(
        lambda: saved(protein_bert("protein_bert_base").state_dict()), "is ESM-1;"
    ),
    "ESM-MSA-1b": in_file(
        lambda: old_fair(msa(), "msa_transformer", "encoder.sentence_encoder.", "encoder"),
        "is an MSA transformer",
    ),
    "ESM-MSA-1b, its names alone": in_file(
        lambda: saved(msa().state_dict()), "is an MSA transformer"
    ),
    "ESM-IF": in_file(
        lambda: saved({"args": {}, "model": {"encoder.gvp_encoder.x": torch.ones(2)}}), "is ESM-IF"
    ),
    "ESMFold": in_file(lambda: esmfold(argparse.Namespace(trunk={})), "is ESMFold"),
    "ESMFold, its settings OmegaConf's": in_file(lambda: esmfold(FILE), "Python objects"),
    "ESM-1v's state dict in Hugging Face's words": in_file(
        esm1v_in_hugging_faces_words, "inv_freq"
    ),
    "fair-esm's layers without rotary frequencies": in_file(
        lambda: fair(dropping("inv_freq")), "inv_freq"
    ),
    "ESM C": in_file(
        lambda: saved({"transformer.blocks.0.attn.layernorm_qkv.1.weight": torch.ones(2, 2)}),
        "is ESM C or ESM3",
    ),
    "ProtT5": in_file(
        lambda: saved({"encoder.block.0.layer.0.SelfAttention.q.weight": torch.ones(2, 2)}),
        "is a T5",
    ),
    "ESM-1b's folder": config("ESM-1b or ESM-1v", position_embedding_type="absolute"),
    "ESMFold's folder": config("ESMFold", is_folding_model=True),
    "ESM++'s folder": config("'ESMplusplus'", model_type="ESMplusplus"),
    "T5's folder": config("'t5'", model_type="t5"),
    "a RoBERTa": dna_config("'roberta'", model_type="roberta"),
    "a BERT without ALiBi": dna_config("alibi_starting_size", alibi_starting_size=None),
    "a BERT with ReLU": dna_config("hidden_act is 'relu'", hidden_act="relu"),
    "a BERT of one token type": dna_config("type_vocab_size is 1", type_vocab_size=1),
    "a BERT that decodes": dna_config("is_decoder is True", is_decoder=True),
    "five heads of eight values": dna_config("5 heads", num_attention_heads=5),
    "a token more than the tokenizer has": (
        lambda: dnabert(vocab_size=4097), "esm/tokenizer.json", "4097"
    ),
    "a tokenizer without specials": (without_specials, "esm/tokenizer.json", "[CLS] and [SEP]"),
    "no tokenizer": (without_tokenizer, "esm/tokenizer.json", "is not a tokenizer"),
    "another alphabet": (
        lambda: holding("vocab.txt", "<cls> \x80 L A G"), "esm/vocab.txt", "ESM-2 alphabet"
    ),
    "fewer tokens than ESM-2 has": config("vocab_size is 30", vocab_size=30),
    "TensorFlow's names in safetensors": weights(
        lambda state: {f"tf_esm/{n.replace('.', '/')}:0": t for n, t in state.items()},
        "is a model of TensorFlow or Flax",
    ),
    "NVIDIA's ESM-2": weights(
        adding("encoder.layers.0.self_attention._extra_state", shape=(0,)), "NVIDIA's"
    ),
}  # fmt: skip

UNUSED_WEIGHTS: dict[str, Case] = {
    "loralib's": weights(adding(f"{LAYER}.lora_A", f"{LAYER}.lora_B"), "an adapter"),
    "an old PEFT's, in a DNABERT": (
        lambda: dnabert(adding("encoder.layer.0.attention.self.Wqkv.lora_A.default.weight")),
        WEIGHTS,
        "an adapter",
    ),
    "loralib's, in a fair-esm file": in_file(
        lambda: fair(adding("layers.0.self_attn.q_proj.lora_A")), "an adapter"
    ),
    "PEFT's, not merged": weights(peft, "an adapter"),
    "PEFT's prefix alone": weights(prefixed("base_model.model."), "an adapter"),
    "an adapter in a part, its index silent": (
        lambda: split(change=adding(f"{LAYER}.lora_A")), INDEX, "an adapter"
    ),
    "IA3's": weights(adding(f"{LAYER}.ia3_l.default"), "an adapter"),
    "DoRA's": weights(adding(f"{LAYER}.lora_magnitude_vector"), "an adapter"),
    "the adapters library's": weights(
        adding("encoder.layer.0.output.adapters.mine.adapter_down.0.weight"), "an adapter"
    ),
    "LoHa's": weights(adding(f"{LAYER}.hada_w1_a.default"), "an adapter"),
    "an adapter beside the encoder": weights(adding("lora.A", "lora.B"), "an adapter"),
    "a head that PEFT trained beside an adapter": weights(
        adding("classifier.modules_to_save.default.bias"), "an adapter"
    ),
    "a prompt before the encoder": weights(adding("prompt.weight"), "an adapter"),
    "a prompt's encoder": weights(adding("prompt_encoder.weight"), "an adapter"),
    "a layer more than config.json says": (
        lambda: folder(num_hidden_layers=3), WEIGHTS, "more layers than the 3"
    ),
    "a layer more in a DNABERT": (
        lambda: dnabert(adding("encoder.layer.1.mlp.wo.weight")), WEIGHTS, "more layers than the 1"
    ),
    "a part of a layer that ESM-2 has not": weights(
        adding("encoder.layer.0.gate.weight"), "does not use"
    ),
    "a norm of the embeddings": weights(adding("embeddings.norm.weight"), "does not use"),
    "a module that is no head": weights(adding("gnn.weight"), "does not use"),
    "an input's projection": weights(adding("input_proj.weight"), "does not use"),
    "a module beside the encoder that is no head": weights(
        prefixed("esm.", "gnn.weight"), "does not use"
    ),
    "a projection within the encoder": weights(
        prefixed("esm.", "esm.proj.weight"), "does not use"
    ),
    "a part of a layer that a DNABERT has not": (
        lambda: dnabert(adding("encoder.layer.0.mlp.gate.weight")), WEIGHTS, "does not use"
    ),
    "two encoders, one of each naming": weights(both_namings, "holds 2 encoders"),
    "two encoders, one without a prefix": weights(
        lambda state: state | prefixed("esm.")(state), "holds 2 encoders"
    ),
    "a teacher beside the encoder": weights(
        lambda s: prefixed("esm.")(s) | prefixed("teacher_head.")(s), "holds 2 encoders"
    ),
    "one weight under two names": weights(legacy_twice, "holds one weight twice"),
    "a wrapped and a plain copy": weights(
        lambda state: state | prefixed("module.")(state), "holds one weight twice"
    ),
    "an adapter's settings beside a model": (
        lambda: holding("adapter_config.json"), "esm/adapter_config.json", "an adapter"
    ),
    "an adapter's weights beside a model": (
        lambda: holding("adapter_model.safetensors"),
        "esm/adapter_model.safetensors",
        "an adapter",
    ),
    "an adapter alone": (
        lambda: adapter_alone("adapter_config.json"), "esm/adapter_config.json", "an adapter"
    ),
    "an old PEFT's adapter alone": (
        lambda: adapter_alone("adapter_model.bin"), "esm/adapter_model.bin", "an adapter"
    ),
    "an adapter of the adapters library": (
        lambda: holding("pytorch_adapter.bin"), "esm/pytorch_adapter.bin", "an adapter"
    ),
    "fine-tuned weights beside the downloaded ones": (
        lambda: folder_of_two(spoiled(DENSE, 0.5)), "esm", "have other values"
    ),
}  # fmt: skip

BAD_NUMBERS: dict[str, Case] = {
    "bitsandbytes' scales": weights(quantised_beside_floats, "a quantised model"),
    "GPTQ's and AWQ's packed weights": weights(
        adding(f"{LAYER}.qweight", f"{LAYER}.scales"), "a quantised model"
    ),
    "a quantised model by its config.json": config(
        "quantised", quantization_config={"load_in_8bit": True}
    ),
    "whole numbers": weights(casting(DENSE, torch.int8), f"{DENSE!r} is quantised"),
    "pruned weights": weights(pruned, "pruned or parametrised"),
    "weight_norm's": weights(
        adding(f"{LAYER}.parametrizations.weight.original0"), "pruned or parametrised"
    ),
    "a NaN": weights(spoiled(DENSE, NAN, 3), f"{DENSE}: 3 of 16,384"),
    "an infinity": weights(spoiled(DENSE, INFINITY), f"{DENSE}: 1 of 16,384"),
    "a file whose end was never written": weights(
        spoiled("encoder.layer.2.intermediate.dense.weight", 0.0, None), "of zeros alone"
    ),
    "a NaN among the rotary frequencies": weights(
        lambda state: state | {"rotary_embeddings.inv_freq": torch.full((8,), NAN)}, "inv_freq"
    ),
    "rotary frequencies that differ": weights(other_rotary, "inv_freq"),
    "a NaN in a fair-esm file": in_file(
        lambda: fair(spoiled("layers.0.fc1.weight", NAN)), "'layers.0.fc1.weight: 1 of 1,024'"
    ),
    "an infinity among large fp16 values": weights(in_half, "dense.bias: 1 of 64"),
    "an fp64 value beyond fp32": weights(too_large, "dense.bias: 1 of 64"),
    "a weight that is missing": weights(dropping(DENSE), f"lacks the weight {DENSE!r}"),
    "a weight of another shape": weights(adding(DENSE), f"{DENSE!r} has shape"),
}

NO_WEIGHTS: dict[str, Case] = {
    "a pickled model": in_file(lambda: saved(esm.model.esm2.ESM2(1, 16, 2)), "Python objects"),
    "a git-lfs pointer": form(lambda: LFS, "a git-lfs pointer"),
    "a git-lfs pointer, in a folder": form(lambda: LFS, "a git-lfs pointer", Path(WEIGHTS)),
    "a web page": form(lambda: PAGE, "a web page"),
    "a web page as .safetensors": form(lambda: PAGE, "a web page", Path(WEIGHTS)),
    "a web page as .bin": form(lambda: PAGE, "a web page", BIN),
    "an error in JSON": form(lambda: b'{"error":"401"}', "a web page or an error", BIN),
    "an empty file": form(lambda: b"", "an empty file"),
    "an empty file of safetensors": form(lambda: b"", "an empty file", Path(WEIGHTS)),
    "a zip of a model": form(pack_zip, "a zip archive"),
    "a tar of a model": form(pack_tar, "an archive"),
    "a gzipped model": form(lambda: gzip.compress(b"x"), "an archive or a compressed"),
    "TorchScript": form(torchscript, "a TorchScript archive"),
    "HDF5": form(lambda: b"\x89HDF\r\n\x1a\n", "an HDF5 file", BIN),
    "safetensors as .pt": in_file(
        lambda: written((DATA / "esm2_random/model.safetensors").read_bytes()),
        "it is a safetensors file",
    ),
    "a pickle as .safetensors": (pickle_as_safetensors, WEIGHTS, "name it pytorch_model.bin"),
    "a cut file": in_file(lambda: cut(fair(), FILE), "it is damaged"),
    "cut safetensors": (lambda: cut(folder(), Path(WEIGHTS)), WEIGHTS, "cannot be read"),
    # torch's reader fails with UnicodeDecodeError.
    "a pickle that ends within a word": in_file(
        lambda: written(b"\x80\x02X\x02\x00\x00\x00\xff\xfe."), "it is damaged"
    ),
    "a pickle of long ago": in_file(
        lambda: saved(esm.model.esm2.ESM2(1, 16, 2), _use_new_zipfile_serialization=False),
        "a pickle of more than weights",
    ),
    "a payload": in_file(lambda: saved({"cfg": Payload(), "model": {}}), "Python objects"),
    "a payload in a folder": (
        lambda: without("model.safetensors") and saved({"x": Payload()}, BIN) and "esm",
        str(BIN),
        "Python objects",
    ),
    "an optimizer's state": in_file(optimizer, "is the state of an optimizer"),
    "a contact regression": in_file(contacts, "contact regression"),
    "Lightning's checkpoint": in_file(
        lambda: saved({"epoch": 1, "global_step": 2, "state_dict": {"model.x": torch.ones(2)}}),
        "is a checkpoint of training",
    ),
    "Lightning's .ckpt": (
        lambda: saved({"state_dict": {}}, Path("m.ckpt")), "m.ckpt", "a checkpoint of training"
    ),
    "a state dict in a dictionary": in_file(
        lambda: saved({"model": esm2()}), "is a checkpoint of training"
    ),
    "a tensor": in_file(lambda: saved(torch.ones(2)), "holds a Tensor"),
    "DeepSpeed's folder": (
        lambda: holding("zero_to_fp32.py", "", "model.safetensors"), "esm", "DeepSpeed"
    ),
    "FSDP's folder": (lambda: holding("__0_0.distcp", "", "model.safetensors"), "esm", "FSDP"),
    "TensorFlow's folder": (
        lambda: holding("tf_model.h5", "", "model.safetensors"), "esm", "TensorFlow's weights"
    ),
    "a folder without weights": (lambda: without("model.safetensors"), "esm", "has neither"),
    "a folder without config.json": (lambda: without("config.json"), CONFIG, "does not exist"),
    "a config.json that is no object": (lambda: holding("config.json", "[]"), CONFIG, "JSON obj"),
    "nothing": (lambda: "nowhere", "nowhere", "does not exist"),
    "the safetensors file itself": (lambda: f"{folder()}/model.safetensors", WEIGHTS, "folder"),
    "an empty index": (lambda: split({}), INDEX, "weight_map"),
    "an index that is no JSON": (
        lambda: holding("model.safetensors.index.json", "{", "model.safetensors"),
        INDEX,
        "cannot be read",
    ),
    "an index of a missing part": (
        lambda: split({DENSE: "other.safetensors"}), "esm/other.safetensors", "cannot be read"
    ),
    "an index of a missing weight": (
        lambda: split({"other": Path(PART).name}), PART, "lacks 'other'"
    ),
    "an index that leads up and away": (lambda: split({DENSE: f"../{PART}"}), INDEX, "beside it"),
    "an index that leads elsewhere": (lambda: split({DENSE: "/x.bin"}), INDEX, "beside it"),
}  # fmt: skip

OTHER_NAMES: dict[str, Case] = {
    "a prefix of the user's own": weights(prefixed("model."), "'model.'"),
    "names of another kind": weights(
        lambda state: {f"x{n:02}": state[name] for n, name in enumerate(state)},
        "lacks the weight 'embeddings.word_embeddings.weight'",
    ),
    "a state dict of an ESM-2 of another size": in_file(
        lambda: saved(esm2()), "1 layer of width 16"
    ),
    "a state dict of another size in Hugging Face's words": in_file(
        lambda: saved(esm2_names(2, 8)), "2 layers of width 8"
    ),
}

BAD_MODELS = OTHER_MODELS | UNUSED_WEIGHTS | BAD_NUMBERS | NO_WEIGHTS | OTHER_NAMES
