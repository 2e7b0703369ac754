"""Models whose rows would be wrong, or that are none: how to make each, and what is said of it.

Each is made in the working folder from a small ESM-2, of other people's code where that has one.
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
from dataclasses import dataclass
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


@dataclass(frozen=True)
class BadModel:
    """make: writes the model and returns its source; place: the file blamed; phrase: and for what.

    advice: what the user is told to do.
    """

    make: Callable[[], str]
    place: str
    phrase: str
    advice: str


def folder(change: Change = lambda state: None, **config: Any) -> str:
    """A Hugging Face folder whose weights, by name, were changed."""
    shutil.copytree(DATA / "esm2_random", FOLDER)
    path = FOLDER / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    state = load_file(FOLDER / "model.safetensors")
    changed = change(state)
    state = changed if changed is not None else state
    save_file({name: t.clone() for name, t in state.items()}, FOLDER / "model.safetensors")
    return str(FOLDER)


def folder_of_two(change: Change) -> str:
    """A folder with its weights, and changed ones as a pickle beside them."""
    source = folder()
    state = load_file(FOLDER / "model.safetensors")
    change(state)
    torch.save(
        {f"esm.{name}": tensor for name, tensor in state.items()}, FOLDER / "pytorch_model.bin"
    )
    return source


def dnabert(change: Change) -> str:
    """A DNABERT's folder of one narrow layer."""
    width, ffn, name = 8, 16, "encoder.layer.0"
    shutil.copytree(DATA / "dnabert_s", FOLDER)
    path = FOLDER / "config.json"
    sizes = {"num_hidden_layers": 1, "hidden_size": width, "num_attention_heads": 2}
    path.write_text(json.dumps(json.loads(path.read_text()) | sizes | {"intermediate_size": ffn}))
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (4096, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        f"{name}.attention.self.Wqkv.weight": (3 * width, width),
        f"{name}.attention.self.Wqkv.bias": (3 * width,),
        f"{name}.attention.output.dense.weight": (width, width),
        f"{name}.attention.output.dense.bias": (width,),
        f"{name}.mlp.gated_layers.weight": (2 * ffn, width),
        f"{name}.mlp.wo.weight": (width, ffn),
        f"{name}.mlp.wo.bias": (width,),
    }
    norms = ("embeddings.LayerNorm", f"{name}.attention.output.LayerNorm", f"{name}.mlp.layernorm")
    shapes |= {f"{norm}.{kind}": (width,) for norm in norms for kind in ("weight", "bias")}
    state = {name: torch.ones(shape) for name, shape in shapes.items()}
    change(state)
    save_file(state, FOLDER / "model.safetensors")
    return str(FOLDER)


def adding(*names: str, shape: tuple[int, ...] = (4, 64)) -> Change:
    return lambda state: state.update({name: torch.ones(shape) for name in names})


def prefixed(prefix: str) -> Change:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


def esm2() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return dict(esm.model.esm2.ESM2(1, 16, 2).state_dict())


def fair(change: Change = lambda state: None) -> str:
    """A file of fair-esm's with an ESM-2 whose weights were changed."""
    state = esm2()
    changed = change(state)
    state = changed if changed is not None else state
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


def esmfold_with_objects() -> str:
    """Settings that are objects, as fair-esm's own file of ESMFold has them."""
    state = {"trunk.blocks.0.seq_attention.proj.weight": torch.ones(2, 2)}
    return saved({"cfg": {"model": BadModel(folder, "", "", "")}, "model": state})


def esm2_names(layers: int, width: int) -> dict[str, Tensor]:
    """A state dict of Hugging Face's names."""
    from transformers import EsmConfig, EsmModel

    sizes = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": 2}
    config = EsmConfig(
        vocab_size=33, intermediate_size=4 * width, position_embedding_type="rotary",
        emb_layer_norm_before=False, **sizes,
    )  # fmt: skip
    return dict(EsmModel(config).state_dict())


def whole_model() -> str:
    return saved(esm.model.esm2.ESM2(1, 16, 2))


def written(content: bytes, path: Path = FILE) -> str:
    """Bytes in place of weights; the source, a folder for the names of one."""
    if path != FILE:
        folder()
        os.remove(FOLDER / "model.safetensors")
    path.write_bytes(content)
    return str(FILE if path == FILE else FOLDER)


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


def safetensors_as_pt() -> str:
    shutil.copy(DATA / "esm2_random/model.safetensors", FILE)
    return str(FILE)


def pickle_as_safetensors() -> str:
    folder()
    torch.save({"x": torch.ones(2)}, FOLDER / "model.safetensors")
    return str(FOLDER)


def beside(name: str, content: str = "{}", without: bool = False) -> str:
    """A folder with one file more, and without the weights where asked for."""
    folder()
    if without:
        os.remove(FOLDER / "model.safetensors")
    (FOLDER / name).write_text(content)
    return str(FOLDER)


def split_with_lora() -> str:
    """Weights in a part beside an index, which does not name one of them."""
    folder()
    state = load_file(FOLDER / "model.safetensors")
    os.remove(FOLDER / "model.safetensors")
    part = "model-00001-of-00001.safetensors"
    index = json.dumps({"weight_map": dict.fromkeys(state, part)})
    (FOLDER / "model.safetensors.index.json").write_text(index)
    save_file(state | {f"{LAYER}.lora_A": torch.ones(4, 64)}, FOLDER / part)
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
PICKLE = "esm/pytorch_model.bin"
ONLY = "only ESM-2, DNABERT-S and DNABERT-2 are supported"
MERGE = "merge_and_unload"
ALONE = "save the encoder alone"
SAVE = "save the weights alone"
AGAIN = "download the weights again"
UNPACK = "unpack it"
PLAIN = "Hugging Face folder"


def _adapter(*names: str, source: Callable[[Change], str] = folder) -> BadModel:
    phrase = f"{len(names)} weights of an adapter (LoRA or the like) ({names[0]!r}"
    return BadModel(lambda: source(adding(*names)), WEIGHTS, phrase, MERGE)


def _unknown(*names: str) -> BadModel:
    plural = "s" * (len(names) > 1)
    phrase = f"holds {len(names)} weight{plural} that the encoder does not use and that may change"
    return BadModel(lambda: folder(adding(*names)), WEIGHTS, phrase, ALONE)


def _form(content: Callable[[], bytes], form: str, advice: str, path: str = str(FILE)) -> BadModel:
    return BadModel(lambda: written(content(), Path(path)), path, f"it is {form}", advice)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0f\nsize 30000000\n"
PAGE = b"\n<!DOCTYPE html><html><title>Sign in</title></html>\n"

BAD_MODELS = {
    # Other models of fair-esm's, by what their files say and by their names alone.
    "ESM-1b": BadModel(lambda: esm1v_file(True), "m.pt", "is ESM-1b or ESM-1v", ONLY),
    "ESM-1v": BadModel(esm1v_file, "m.pt", "is ESM-1b or ESM-1v", ONLY),
    "ESM-1v, without a word on its kind": BadModel(
        lambda: esm1v_file(arch="mine"), "m.pt", "is ESM-1b or ESM-1v", ONLY
    ),
    "ESM-1v that says it is an ESM-2": BadModel(esm1v_as_esm2, "m.pt", "is ESM-1b or ESM-1v", ONLY),
    "ESM-1": BadModel(esm1, "m.pt", "is ESM-1 of fair-esm", ONLY),
    "ESM-1, its names alone": BadModel(
        lambda: saved(protein_bert("protein_bert_base").state_dict()), "m.pt", "is ESM-1;", ONLY
    ),
    "ESM-MSA-1b": BadModel(
        lambda: old_fair(msa(), "msa_transformer", "encoder.sentence_encoder.", "encoder"),
        "m.pt",
        "is an MSA transformer (ESM-MSA-1) of fair-esm",
        ONLY,
    ),
    "ESM-MSA-1b, its names alone": BadModel(
        lambda: saved(msa().state_dict()), "m.pt", "is an MSA transformer", ONLY
    ),
    "ESM-IF": BadModel(
        lambda: old_fair(torch.nn.Linear(2, 2), "gvp_transformer_invariant_gvp", "", "encoder"),
        "m.pt",
        "is ESM-IF",
        ONLY,
    ),
    "ESMFold": BadModel(
        lambda: saved(
            {
                "cfg": {"model": argparse.Namespace(trunk={})},
                "model": {"trunk.blocks.0.seq_attention.proj.weight": torch.ones(2, 2)},
            }
        ),
        "m.pt",
        "is ESMFold",
        ONLY,
    ),
    "ESMFold, its settings OmegaConf's": BadModel(
        esmfold_with_objects, "m.pt", "weights only: it is ESMFold", ONLY
    ),
    "ESM-1v's state dict in Hugging Face's words": BadModel(
        esm1v_in_hugging_faces_words, "m.pt", "has no rotary frequencies (inv_freq)", PLAIN
    ),
    "fair-esm's layers without rotary frequencies": BadModel(
        lambda: fair(lambda state: {n: t for n, t in state.items() if "inv_freq" not in n}),
        "m.pt",
        "has no rotary frequencies (inv_freq)",
        PLAIN,
    ),
    "ESM C": BadModel(
        lambda: saved({"transformer.blocks.0.attn.layernorm_qkv.1.weight": torch.ones(2, 2)}),
        "m.pt",
        "is ESM C or ESM3",
        ONLY,
    ),
    "ProtT5": BadModel(
        lambda: saved({"encoder.block.0.layer.0.SelfAttention.q.weight": torch.ones(2, 2)}),
        "m.pt",
        "is a T5",
        ONLY,
    ),
    "ESM-1b's folder": BadModel(
        lambda: folder(position_embedding_type="absolute"),
        "esm/config.json",
        "is 'absolute', so this is ESM-1b or ESM-1v",
        "only ESM-2 ('rotary') is supported",
    ),
    "ESMFold's folder": BadModel(
        lambda: folder(is_folding_model=True),
        "esm/config.json",
        "is_folding_model is True, so this is ESMFold",
        "only ESM-2",
    ),
    "ESM++'s folder": BadModel(
        lambda: folder(model_type="ESMplusplus"),
        "esm/config.json",
        "model_type is 'ESMplusplus'",
        "only ESM-2 ('esm') is supported",
    ),
    "TensorFlow's names in safetensors": BadModel(
        lambda: folder(
            lambda state: {f"tf_esm/{n.replace('.', '/')}:0": t for n, t in state.items()}
        ),
        WEIGHTS,
        "is a model of TensorFlow or Flax",
        ONLY,
    ),
    "NVIDIA's ESM-2": BadModel(
        lambda: folder(adding("encoder.layers.0.self_attention._extra_state", shape=(0,))),
        WEIGHTS,
        "is a model of NVIDIA's Transformer Engine",
        ONLY,
    ),
    # Weights that nobody looks at.
    "loralib's": _adapter(f"{LAYER}.lora_A", f"{LAYER}.lora_B"),
    "an old PEFT's, in a DNABERT": _adapter(
        "encoder.layer.0.attention.self.Wqkv.lora_A.default.weight",
        "encoder.layer.0.attention.self.Wqkv.lora_B.default.weight",
        source=dnabert,
    ),
    "loralib's, in a fair-esm file": BadModel(
        lambda: fair(adding("layers.0.self_attn.q_proj.lora_A", "layers.0.fc1.lora_B")),
        "m.pt",
        "holds 2 weights of an adapter (LoRA or the like) ('encoder.sentence_encoder.layers.0.",
        MERGE,
    ),
    "PEFT's, not merged": BadModel(
        lambda: folder(peft), WEIGHTS, "weights of an adapter (LoRA or the like)", MERGE
    ),
    "an adapter in a part, its index silent": BadModel(
        split_with_lora, "esm/model.safetensors.index.json", "1 weight of an adapter", MERGE
    ),
    "IA3's": _adapter(f"{LAYER}.ia3_l.default", f"{LAYER}.ia3_l.other"),
    "DoRA's": _adapter(f"{LAYER}.lora_A", f"{LAYER}.lora_magnitude_vector"),
    "the adapters library's": _adapter(
        "encoder.layer.0.output.adapters.mine.adapter_down.0.weight",
        "encoder.layer.0.output.adapters.mine.adapter_up.weight",
    ),
    "LoHa's": _adapter(f"{LAYER}.hada_w1_a.default", f"{LAYER}.hada_w1_b.default"),
    "an adapter beside the encoder": _adapter("lora.A", "lora.B"),
    "a head that PEFT trained beside an adapter": _adapter(
        "classifier.modules_to_save.default.bias", "classifier.modules_to_save.default.weight"
    ),
    "a prompt before the encoder": _adapter("prompt.weight", "prompt_encoder.weight"),
    "a layer more than config.json says": BadModel(
        lambda: folder(num_hidden_layers=3), WEIGHTS, "more than 3 layers", "config.json"
    ),
    "a part of a layer that ESM-2 has not": _unknown("encoder.layer.0.gate.weight"),
    "a norm of the embeddings": _unknown("embeddings.norm.weight", "embeddings.norm.bias"),
    "a module that is no head": _unknown("gnn.weight"),
    "an input's projection": _unknown("input_proj.weight"),
    "a module beside the encoder that is no head": BadModel(
        lambda: folder(lambda state: prefixed("esm.")(state) | {"gnn.weight": torch.ones(2)}),
        WEIGHTS,
        "holds 1 weight that the encoder does not use and that may change its rows ('gnn.weight')",
        ALONE,
    ),
    "a projection within the encoder": BadModel(
        lambda: folder(lambda state: prefixed("esm.")(state | {"proj.weight": torch.ones(2)})),
        WEIGHTS,
        "holds 1 weight that the encoder does not use and that may change its rows ('esm.proj.",
        ALONE,
    ),
    "a part of a layer that a DNABERT has not": BadModel(
        lambda: dnabert(adding("encoder.layer.0.mlp.gate.weight")),
        WEIGHTS,
        "holds 1 weight that the encoder does not use and that may change its rows ('encoder.",
        ALONE,
    ),
    "bitsandbytes' scales": BadModel(
        lambda: folder(quantised_beside_floats),
        WEIGHTS,
        f"holds 1 weight of a quantised model ('{LAYER}.SCB')",
        "save the model in fp32",
    ),
    "GPTQ's and AWQ's packed weights": BadModel(
        lambda: folder(adding(f"{LAYER}.qweight", f"{LAYER}.scales", f"{LAYER}.qzeros")),
        WEIGHTS,
        "holds 3 weights of a quantised model",
        "save the model in fp32",
    ),
    "a quantised model by its config.json": BadModel(
        lambda: folder(quantization_config={"load_in_8bit": True}),
        "esm/config.json",
        "has a quantization_config: the weights are quantised",
        "save the model in fp32",
    ),
    "pruned weights": BadModel(
        lambda: folder(pruned), WEIGHTS, "of pruned or parametrised layers", "prune.remove"
    ),
    "weight_norm's": BadModel(
        lambda: folder(adding(f"{LAYER}.parametrizations.weight.original0")),
        WEIGHTS,
        "of pruned or parametrised layers",
        "remove_parametrizations",
    ),
    "two encoders, one of each naming": BadModel(
        lambda: folder(both_namings), WEIGHTS, "holds 2 encoders ('e", "save the one that is meant"
    ),
    "two encoders, one without a prefix": BadModel(
        lambda: folder(lambda state: state | prefixed("esm.")(state)),
        WEIGHTS,
        "holds 2 encoders (",
        "save the one that is meant",
    ),
    "a teacher beside the encoder": BadModel(
        lambda: folder(lambda s: prefixed("esm.")(s) | prefixed("teacher_head.")(s)),
        WEIGHTS,
        "holds 2 encoders (",
        "save the one that is meant",
    ),
    "one weight under two names": BadModel(
        lambda: folder(legacy_twice), WEIGHTS, "holds one weight twice", "without one copy"
    ),
    "a wrapped and a plain copy": BadModel(
        lambda: folder(lambda state: state | prefixed("module.")(state)),
        WEIGHTS,
        "holds one weight twice",
        "without one copy",
    ),
    # Adapters beside a model, or alone.
    "an adapter's settings beside a model": BadModel(
        lambda: beside("adapter_config.json"), "esm/adapter_config.json", "of an adapter", MERGE
    ),
    "an adapter's weights beside a model": BadModel(
        lambda: beside("adapter_model.safetensors"),
        "esm/adapter_model.safetensors",
        "of an adapter",
        MERGE,
    ),
    "an adapter alone": BadModel(
        lambda: adapter_alone("adapter_config.json"),
        "esm/adapter_config.json",
        "of an adapter",
        MERGE,
    ),
    "an old PEFT's adapter alone": BadModel(
        lambda: adapter_alone("adapter_model.bin"), "esm/adapter_model.bin", "of an adapter", MERGE
    ),
    "an adapter of the adapters library": BadModel(
        lambda: beside("pytorch_adapter.bin"), "esm/pytorch_adapter.bin", "of an adapter", MERGE
    ),
    "fine-tuned weights beside the downloaded ones": BadModel(
        lambda: folder_of_two(spoiled("encoder.layer.1.output.dense.weight", 0.5, 1)),
        str(FOLDER),
        "model.safetensors and pytorch_model.bin have other values for "
        "'encoder.layer.1.output.dense.weight'",
        "remove the one that is not meant",
    ),
    # Numbers that are none.
    "a NaN": BadModel(
        lambda: folder(spoiled("encoder.layer.1.output.dense.weight", float("nan"), 3)),
        WEIGHTS,
        "1 weight with NaN or infinite values ('encoder.layer.1.output.dense.weight: 3 of 16,384')",
        "copy it again",
    ),
    "infinities in two weights": BadModel(
        lambda: folder(
            lambda state: (
                [
                    spoiled(f"encoder.layer.{number}.LayerNorm.bias", value)(state)
                    for number, value in ((1, float("inf")), (3, float("-inf")))
                ]
                and None
            )
        ),
        WEIGHTS,
        "2 weights with NaN or infinite values ('encoder.layer.1.LayerNorm.bias: 1 of 64', ",
        "copy it again",
    ),
    "a file whose end was never written": BadModel(
        lambda: folder(spoiled("encoder.layer.2.intermediate.dense.weight", 0.0, None)),
        WEIGHTS,
        "1 weight of zeros alone ('encoder.layer.2.intermediate.dense.weight')",
        "copy it again",
    ),
    "a NaN among the rotary frequencies": BadModel(
        lambda: folder(
            lambda state: state | {"rotary_embeddings.inv_freq": torch.full((8,), float("nan"))}
        ),
        WEIGHTS,
        "'rotary_embeddings.inv_freq' holds NaN or infinite values",
        "copy the file again",
    ),
    "a NaN in a fair-esm file": BadModel(
        lambda: fair(spoiled("layers.0.fc1.weight", float("nan"))),
        "m.pt",
        "'layers.0.fc1.weight: 1 of 1,024'",
        "copy it again",
    ),
    "an infinity among large fp16 values": BadModel(
        lambda: folder(in_half),
        WEIGHTS,
        "1 weight with NaN or infinite values ('encoder.layer.3.output.dense.bias: 1 of 64')",
        "copy it again",
    ),
    "an fp64 value beyond fp32": BadModel(
        lambda: folder(too_large),
        WEIGHTS,
        "'encoder.layer.1.output.dense.bias: 1 of 64'",
        "copy it again",
    ),
    # Files that are no weights.
    "a pickled model": BadModel(
        whole_model, "m.pt", "weights only: it holds Python objects (", SAVE
    ),
    "a git-lfs pointer": _form(lambda: LFS, "a git-lfs pointer", "git lfs pull"),
    "a git-lfs pointer, in a folder": _form(
        lambda: LFS, "a git-lfs pointer", "git lfs pull", WEIGHTS
    ),
    "a web page": _form(lambda: PAGE, "a web page", AGAIN),
    "a web page as .safetensors": _form(lambda: PAGE, "a web page", AGAIN, WEIGHTS),
    "a web page as .bin": _form(lambda: PAGE, "a web page", AGAIN, PICKLE),
    "an error in JSON": _form(lambda: b'{"error":"401"}', "a text in JSON", AGAIN, PICKLE),
    "an empty file": _form(lambda: b"", "an empty file", AGAIN),
    "an empty file of safetensors": _form(lambda: b"", "an empty file", AGAIN, WEIGHTS),
    "a zip of a model": _form(pack_zip, "a zip archive", UNPACK),
    "a tar of a model": _form(pack_tar, "a tar archive", UNPACK),
    "a gzipped model": _form(lambda: gzip.compress(b"x"), "compressed with gzip", UNPACK),
    "TorchScript": _form(torchscript, "a TorchScript archive", SAVE),
    "HDF5": _form(lambda: b"\x89HDF\r\n\x1a\n", "an HDF5 file", "with PyTorch", PICKLE),
    "safetensors as .pt": BadModel(
        safetensors_as_pt, "m.pt", "it is a safetensors file", "name it model.safetensors"
    ),
    "a pickle as .safetensors": BadModel(
        pickle_as_safetensors, WEIGHTS, "it is PyTorch's", "name it pytorch_model.bin"
    ),
    "a cut file": BadModel(
        lambda: written(Path(fair()).read_bytes()[:-999]), "m.pt", "it is damaged", "copy"
    ),
    "a pickle of long ago": BadModel(
        lambda: saved(esm.model.esm2.ESM2(1, 16, 2), _use_new_zipfile_serialization=False),
        "m.pt",
        "or a pickle of more than weights",
        SAVE,
    ),
    "an optimizer's state": BadModel(
        optimizer, "m.pt", "is the state of an optimizer", "give the model's folder"
    ),
    "a contact regression": BadModel(
        contacts, "m.pt", "the contact regression of an ESM-2", "without `-contact-regression`"
    ),
    "Lightning's checkpoint": BadModel(
        lambda: saved({"epoch": 1, "global_step": 2, "state_dict": {"model.x": torch.ones(2)}}),
        "m.pt",
        "is a checkpoint of training ('epoch', 'global_step', 'state_dict')",
        SAVE,
    ),
    "Lightning's .ckpt": BadModel(
        lambda: saved({"state_dict": {}}, Path("m.ckpt")),
        "m.ckpt",
        "but a checkpoint of training",
        "save the weights in it alone",
    ),
    "a state dict in a dictionary": BadModel(
        lambda: saved({"model": esm2()}), "m.pt", "is a checkpoint of training ('model')", SAVE
    ),
    "a tensor": BadModel(lambda: saved(torch.ones(2)), "m.pt", "holds a Tensor in place", SAVE),
    "DeepSpeed's folder": BadModel(
        lambda: beside("zero_to_fp32.py", without=True), "esm", "DeepSpeed", "zero_to_fp32.py"
    ),
    "FSDP's folder": BadModel(
        lambda: beside("__0_0.distcp", without=True), "esm", "FSDP", "merge-weights"
    ),
    "TensorFlow's folder": BadModel(
        lambda: beside("tf_model.h5", without=True), "esm", "TensorFlow's weights", "from_tf=True"
    ),
    # Names that are not read.
    "PEFT's prefix alone": BadModel(
        lambda: folder(prefixed("base_model.model.")), WEIGHTS, "weights of an adapter", MERGE
    ),
    "a prefix of the user's own": BadModel(
        lambda: folder(prefixed("model.")),
        WEIGHTS,
        "lacks the weight 'embeddings.word_embeddings.weight': its encoder's names begin with "
        "'model.'",
        ALONE,
    ),
    "names of another kind": BadModel(
        lambda: folder(lambda state: {f"x{n:02}": state[name] for n, name in enumerate(state)}),
        WEIGHTS,
        "lacks the weight 'embeddings.word_embeddings.weight' (or 'embed_tokens.weight')",
        "it holds 67 weights: 'x00', 'x01', 'x02', ...",
    ),
    # Plain state dicts that do not tell enough.
    "a state dict of an ESM-2 of another size": BadModel(
        lambda: saved(esm2()), "m.pt", "has 1 layer of width 16, no official", PLAIN
    ),
    "a state dict of another size in Hugging Face's words": BadModel(
        lambda: saved(esm2_names(2, 8)), "m.pt", "has 2 layers of width 8, no official", PLAIN
    ),
}
