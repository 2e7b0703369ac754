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
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import esm
import torch
from models_in_plain import DNABERT_FILES, dnabert_folder
from safetensors.torch import load_file, save_file
from t5_in_plain import ANKH3_TOKENS, small_t5
from torch import Tensor
from transformers import EsmcConfig, EsmcModel, EsmcTokenizer

DATA = Path(__file__).parents[1] / "data"
LAYER = "encoder.layer.0.attention.self.query"
FOLDER = Path("esm")
FILE = Path("m.pt")
Change = Callable[[dict[str, Tensor]], Any]
# What makes a model and returns its source, and the file that is blamed.
Case = tuple[Callable[[], str], str]
SIZES = {"layers": 1, "embed_dim": 16, "attention_heads": 2}
COMMON = SIZES | {"ffn_embed_dim": 32, "max_positions": 1024, "logit_bias": True}


def folder(change: Change = lambda state: None, **config: Any) -> str:
    """A Hugging Face folder whose weights, by name, were changed."""
    shutil.copytree(DATA / "esm2_random", FOLDER)
    return changed(change, config)


def dnabert(change: Change = lambda state: None, **config: Any) -> str:
    """A DNABERT's folder of one narrow layer, changed."""
    dnabert_folder(FOLDER, (1, 8, 2, 16))
    return changed(change, config)


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
    sizes = {f"encoder_{name}": size for name, size in SIZES.items()}
    cfg = argparse.Namespace(token_dropout=True, **sizes)
    return saved({"cfg": {"model": cfg}, "model": named})


def saved(content: Any, path: Path = FILE, **options: Any) -> str:
    torch.save(content, path, **options)
    return str(path)


def old_fair(model: torch.nn.Module, arch: str, prefix: str, words: str) -> str:
    """A file as fair-esm's older models have it; words: before the names of its settings."""
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    args = argparse.Namespace(arch=arch, **{f"{words}_{name}": n for name, n in SIZES.items()})
    return saved({"args": args, "model": state})


def protein_bert(arch: str, **settings: Any) -> torch.nn.Module:
    args = argparse.Namespace(arch=arch, token_dropout=True, final_bias=True, **COMMON, **settings)
    return esm.ProteinBertModel(args, esm.Alphabet.from_architecture(arch))


def esm1() -> str:
    arch = "protein_bert_base"
    return old_fair(protein_bert(arch), arch, "decoder.", "decoder")


def esm1v(before: bool = False) -> torch.nn.Module:
    return protein_bert("roberta_large", emb_layer_norm_before=before)


def esm1v_file(before: bool = False, change: Change = lambda state: None, **settings: Any) -> str:
    """A file as ESM-1b and ESM-1v have it; before: with ESM-1b's norm after the embedding."""
    state = dict(esm1v(before).state_dict())
    change(state)
    words = {f"encoder_{name}": size for name, size in (SIZES | {"ffn_embed_dim": 32}).items()}
    common = {"arch": "roberta_large", "max_positions": 1024, "token_dropout": True}
    args = argparse.Namespace(**words, **common | settings)
    named = {f"encoder.sentence_encoder.{name}": tensor for name, tensor in state.items()}
    return saved({"args": args, "model": named})


def esmc(change: Change = lambda state: None, **config: Any) -> str:
    """A folder of ESM C of one narrow layer, as transformers saves it, changed."""
    sizes = {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 2}
    EsmcModel(EsmcConfig(**sizes, intermediate_size=32)).save_pretrained(FOLDER)
    return changed(change, config)


def esmc_2024() -> str:
    """The repository of an ESM C of December 2024."""
    (FOLDER / "data/weights").mkdir(parents=True)
    torch.save({}, FOLDER / "data/weights/esmc_300m_2024_12_v0.pth")
    return str(FOLDER)


def esmc_of_other_tokens() -> str:
    esmc()
    EsmcTokenizer().save_pretrained(FOLDER)
    path = FOLDER / "tokenizer.json"
    path.write_text(path.read_text().replace('"L": 4', '"A": 4').replace('"A": 5', '"L": 5'))
    return str(FOLDER)


def t5(change: Change = lambda state: None, vocabulary: int = 128, **config: Any) -> str:
    """A folder of a small ProtT5, as transformers saves it, changed; vocabulary: another size."""
    small_t5(vocabulary).save_pretrained(FOLDER)
    return changed(change, config)


def ankh(change: Change = lambda state: None, **config: Any) -> str:
    """As t5(), of an Ankh."""
    small_t5(144, activation="gated-gelu").save_pretrained(FOLDER)
    return changed(change, config)


def t5_beside(name: str, content: bytes, vocabulary: int = 128) -> str:
    """A small T5 with a file of tokens."""
    source = t5(vocabulary=vocabulary)
    (FOLDER / name).write_bytes(content)
    return source


def ankh3(tokens: Iterable[str] | None = None, **ids: int) -> str:
    """A small Ankh 3; its tokenizer.json has these tokens and other ids of some, or is missing."""
    source = t5(vocabulary=256)
    if tokens is not None:
        vocab = {token: number for number, token in enumerate(tokens)} | ids
        model = {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}
        (FOLDER / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))
    return source


def other_words(state: dict[str, Tensor]) -> None:
    state["encoder.embed_tokens.weight"] = state["shared.weight"] + 1


def no_number(state: dict[str, Tensor]) -> None:
    state["shared.weight"][3, 3] = NAN
    state["encoder.embed_tokens.weight"] = state["shared.weight"].clone()


def esm1v_as_esm2() -> str:
    """ESM-1v with what an ESM-2's file says of itself."""
    return fair(lambda state: dict(esm1v().state_dict()))


def msa() -> torch.nn.Module:
    rest = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    more = {"embed_positions_msa": True, "embed_positions_msa_dim": 16, "max_tokens": 64}
    args = argparse.Namespace(arch="msa_transformer", **COMMON, **rest, **more)
    return esm.MSATransformer(args, esm.Alphabet.from_architecture("msa_transformer"))


def esm1v_in_hugging_faces_words() -> str:
    """A state dict that has ESM-2's names, its size, and learned positions."""
    state = esm2_names(6, 8)
    state = {name: tensor for name, tensor in state.items() if "inv_freq" not in name}
    return saved(state | {"embeddings.position_embeddings.weight": torch.ones(10, 8)})


def esmfold(settings: Any) -> str:
    state = {"trunk.blocks.0.seq_attention.proj.weight": torch.ones(2, 2)}
    return saved({"cfg": {"model": settings}, "model": state})


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
    source = folder()
    torch.save({"x": ONES}, WEIGHTS)
    return source


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
    content = json.loads((DNABERT_FILES / "tokenizer.json").read_text())
    return tokenizer_of(json.dumps(content | {"post_processor": None}))


def bare_tokenizer(**model: Any) -> str:
    """A DNABERT whose tokenizer has this model and nothing else."""
    return tokenizer_of(json.dumps({"version": "1.0", "model": model}))


def tokenizer_of(content: str | None) -> str:
    """A DNABERT whose tokenizer.json holds this content, or is missing where that is None."""
    source, path = dnabert(), FOLDER / "tokenizer.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
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
BRACKETS = "[" * 100_000
WORDS = {"[CLS]": 0, "[SEP]": 1, "[UNK]": 2} | {str(n): n for n in range(3, 4096)}
NAN, INFINITY, ONES = float("nan"), float("inf"), torch.ones(2, 2)
DENSE = "encoder.layer.1.output.dense.weight"
PIECES = (DATA / "prot_t5/spiece.model").read_bytes()
T5_LAYER = "encoder.block.1.layer"


def in_file(make: Callable[..., str], *values: Any, **options: Any) -> Case:
    return partial(make, *values, **options), "m.pt"


def weights(change: Change, make: Callable[[Change], str] = folder) -> Case:
    return partial(make, change), WEIGHTS


def config(make: Callable[..., str] = folder, **settings: Any) -> Case:
    return partial(make, **settings), CONFIG


def tokenizer(make: Callable[..., str], *values: Any, **options: Any) -> Case:
    return partial(make, *values, **options), "esm/tokenizer.json"


def form(content: Callable[[], bytes], path: Path = FILE) -> Case:
    return lambda: written(content(), path), str(path)


def with_adapter(name: str, make: Callable[[str], str]) -> Case:
    """A folder with an adapter's file of this name, which is blamed."""
    return partial(make, name), f"esm/{name}"


# How the settings of biohub/ESMC-* differ from those of transformers' folder.
PUBLISHED = {"d_model": 64, "n_heads": 1, "n_layers": 1} | dict.fromkeys(
    ("num_hidden_layers", "hidden_size", "num_attention_heads")
)
OTHER_MODELS: dict[str, Case] = {
    "ESM-1v of seven positions": in_file(esm1v_file, max_positions=7),
    "ESM-1v that says it is an ESM-2": in_file(esm1v_as_esm2),
    "ESM-1 with a table of positions": in_file(esm1v_file, arch="protein_bert_base"),
    "ESM-1b without its first norm's bias": in_file(
        esm1v_file, True, lambda state: state.pop("emb_layer_norm_before.bias")
    ),
    "ESM-1v's names alone, of no official size": in_file(lambda: saved(esm1v().state_dict())),
    "ESM-1": in_file(esm1),
    "ESM-1, its names alone": in_file(
        lambda: saved(protein_bert("protein_bert_base").state_dict())
    ),
    "ESM-MSA-1b": in_file(
        lambda: old_fair(msa(), "msa_transformer", "encoder.sentence_encoder.", "encoder")
    ),
    "ESM-MSA-1b, its names alone": in_file(lambda: saved(msa().state_dict())),
    "ESM-IF": in_file(saved, {"args": {}, "model": {"encoder.gvp_encoder.x": ONES}}),
    "ESMFold": in_file(esmfold, argparse.Namespace(trunk={})),
    "ESMFold, its settings OmegaConf's": in_file(esmfold, FILE),
    "ESM-1v's state dict in Hugging Face's words": in_file(esm1v_in_hugging_faces_words),
    "fair-esm's layers without rotary frequencies": in_file(fair, dropping("inv_freq")),
    "ESM C's file, of no official size": in_file(
        saved, {"embed.weight": ONES, "transformer.blocks.0.attn.layernorm_qkv.1.weight": ONES}
    ),
    "ESM C's repository of 2024": (esmc_2024, "esm"),
    "ESM C without a norm of queries": weights(dropping("q_norm"), esmc),
    "ESM C with one weight more": weights(adding("layers.0.mlp.scale"), esmc),
    "ESM C with more layers than it says": weights(
        adding("layers.1.self_attn.q_norm.weight", shape=(64,)), esmc
    ),
    "ESM C of grouped queries": config(esmc, num_key_value_heads=1),
    "ESM C of other angles": config(esmc, rope_parameters={"rope_theta": 500.0}),
    "ESM C of stretched angles": config(esmc, rope_parameters={"type": "linear", "factor": 4.0}),
    "ESM C of stretched angles, as they were once called": config(
        esmc, rope_scaling={"type": "linear", "factor": 4.0}
    ),
    "ESM C that looks back only": config(esmc, is_causal=True),
    "ESM C's settings in two words": config(esmc, d_model=64, n_heads=1, n_layers=1),
    "ESM C's published settings, of two heads": config(esmc, **PUBLISHED | {"n_heads": 2}),
    "ESM C's published settings, their width a text": config(esmc, **PUBLISHED | {"d_model": "64"}),
    "ESM C's published settings, without heads": config(esmc, **PUBLISHED | {"n_heads": None}),
    "ESM C with GELU": config(esmc, hidden_act="gelu"),
    "ESM C of other tokens": (esmc_of_other_tokens, "esm/tokenizer.json"),
    "ESM C of forty tokens": config(esmc, vocab_size=40),
    "NVIDIA's ESM C": weights(adding("encoder.layers.0.self_attention.layernorm_qkv.weight"), esmc),
    "ESM3": in_file(saved, {"transformer.blocks.0.geom_attn.proj.weight": ONES}),
    "ProtT5's file": in_file(lambda: saved(small_t5().state_dict())),
    "ProtT5 without a size": config(t5, d_kv=None),
    "ProtT5 of a size that is a text": config(t5, d_ff="32"),
    "ProtT5 of three buckets": config(t5, relative_attention_num_buckets=3),
    "ProtT5 of two activations": config(t5, dense_act_fn="gelu"),
    "ProtT5 gated by ReLU": config(t5, feed_forward_proj="gated-relu", dense_act_fn=None),
    "ProtT5 that decodes": config(t5, is_decoder=True),
    "ProtT5 of another end of sequences": config(t5, eos_token_id=2),
    "ProtT5 without a weight": weights(dropping(f"{T5_LAYER}.1.DenseReluDense.wi."), t5),
    "ProtT5 without words": weights(dropping("shared"), t5),
    "ProtT5 without distances": weights(dropping("relative_attention_bias"), t5),
    "ProtT5 of another shape": weights(adding(f"{T5_LAYER}.0.SelfAttention.k.weight"), t5),
    "ProtT5 of other distances": (partial(t5, relative_attention_num_buckets=64), WEIGHTS),
    "ProtT5 with a layer more": weights(adding("encoder.block.2.layer.0.layer_norm.weight"), t5),
    "ProtT5 with distances in each layer": weights(
        adding(f"{T5_LAYER}.0.SelfAttention.relative_attention_bias.weight", shape=(32, 2)), t5
    ),
    "ProtT5 of two tables of words": weights(other_words, t5),
    "ProtT5 with an adapter": weights(adding(f"{T5_LAYER}.0.SelfAttention.q.lora_A"), t5),
    "ProtT5 in 8 bits": weights(adding(f"{T5_LAYER}.0.SelfAttention.q.SCB", shape=(8,)), t5),
    "Ankh without half of its gate": weights(dropping(f"{T5_LAYER}.1.DenseReluDense.wi_1"), ankh),
    "Ankh's weights with ProtT5's activation": (
        partial(ankh, feed_forward_proj="relu", dense_act_fn="relu"),
        WEIGHTS,
    ),
    "ProtT5 beside Ankh's pieces": (
        lambda: t5_beside("spiece.model", PIECES.replace("▁".encode(), b"///")),
        "esm/spiece.model",
    ),
    "ProtT5 beside pieces in another order": (
        lambda: t5_beside(
            "spiece.model", PIECES.replace(b"L\x15", b"?\x15").replace(b"A\x15", b"L\x15")
        ),
        "esm/spiece.model",
    ),
    "ProtT5 beside cut pieces": (
        lambda: t5_beside("spiece.model", PIECES[:99]),
        "esm/spiece.model",
    ),
    "ProtT5 beside half of the pieces": (
        lambda: t5_beside("spiece.model", PIECES[:94]),
        "esm/spiece.model",
    ),
    "ProtT5 beside a text in place of pieces": (
        lambda: t5_beside("spiece.model", b"A L G V S R\n"),
        "esm/spiece.model",
    ),
    "ProtT5 beside no pieces": (lambda: t5_beside("spiece.model", b""), "esm/spiece.model"),
    "ProstT5 of other added tokens": (
        lambda: t5_beside("added_tokens.json", b'{"<AA2fold>": 148, "<fold2AA>": 149}', 150),
        "esm/added_tokens.json",
    ),
    "Ankh beside ProtT5's pieces": (
        lambda: t5_beside("spiece.model", PIECES, 144),
        "esm/spiece.model",
    ),
    "a git-lfs pointer beside ProtT5": (
        lambda: t5_beside("spiece.model", LFS),
        "esm/spiece.model",
    ),
    "a git-lfs pointer in place of Ankh 3's tokenizer": (
        lambda: t5_beside("tokenizer.json", LFS, 256),
        "esm/tokenizer.json",
    ),
    "ProtT5 with a NaN in both of its words": weights(no_number, t5),
    "Ankh 3 without a tokenizer": tokenizer(ankh3),
    "Ankh 3 without [NLU]": tokenizer(ankh3, [t for t in ANKH3_TOKENS if t != "[NLU]"]),
    "Ankh 3 without an amino acid": tokenizer(ankh3, [t for t in ANKH3_TOKENS if t not in "VY"]),
    "Ankh 3 of an id without a word": tokenizer(ankh3, ANKH3_TOKENS, Y=256),
    "Ankh 3 of one id twice": tokenizer(ankh3, ANKH3_TOKENS, Y=0),
    "Ankh 3 of too many tokens": tokenizer(
        ankh3, [*ANKH3_TOKENS, *(f"<{number}>" for number in range(256))]
    ),
    "ESM-2's weights with ESM-1b's settings": (
        partial(folder, position_embedding_type="absolute"),
        WEIGHTS,
    ),
    "an Esm of relative positions": config(position_embedding_type="relative_key"),
    "an Esm without sizes": config(num_hidden_layers=None, hidden_size=None),
    "ESMFold's folder": config(is_folding_model=True),
    "ESM++'s folder": config(model_type="ESMplusplus"),
    "a T5 of texts": config(t5, vocab_size=32128),
    "a T5 without a vocabulary": config(t5, vocab_size=None),
    "an mT5": config(t5, model_type="mt5"),
    "a RoBERTa": config(dnabert, model_type="roberta"),
    "a BERT without ALiBi": config(dnabert, alibi_starting_size=None),
    "a BERT with ReLU": config(dnabert, hidden_act="relu"),
    "a BERT of one token type": config(dnabert, type_vocab_size=1),
    "a BERT that decodes": config(dnabert, is_decoder=True),
    "five heads of eight values": config(dnabert, num_attention_heads=5),
    "a token more than the tokenizer has": tokenizer(dnabert, vocab_size=4097),
    "a tokenizer without specials": tokenizer(without_specials),
    "no tokenizer": tokenizer(tokenizer_of, None),
    "an empty tokenizer": tokenizer(tokenizer_of, ""),
    "a tokenizer of brackets": tokenizer(tokenizer_of, BRACKETS),
    "a tokenizer without words": tokenizer(bare_tokenizer, type="BPE", vocab={}, merges=[]),
    "a tokenizer of one word of a large number": tokenizer(
        bare_tokenizer, type="BPE", vocab={"a": 2**32 - 1}, merges=[]
    ),
    "a tokenizer that knows no unknown word": tokenizer(
        bare_tokenizer, type="WordLevel", vocab=WORDS, unk_token="x"
    ),
    "another alphabet": (lambda: holding("vocab.txt", "<cls> \x80 L A G"), "esm/vocab.txt"),
    "fewer tokens than ESM-2 has": config(vocab_size=30),
    "TensorFlow's names in safetensors": weights(
        lambda state: {f"tf_esm/{n.replace('.', '/')}:0": t for n, t in state.items()}
    ),
    "NVIDIA's ESM-2": weights(adding("encoder.layers.0.layernorm_mlp.fc1_weight")),
}

UNUSED_WEIGHTS: dict[str, Case] = {
    "loralib's": weights(adding(f"{LAYER}.lora_A", f"{LAYER}.lora_B")),
    "an old PEFT's, in a DNABERT": weights(
        adding("encoder.layer.0.attention.self.Wqkv.lora_A.default.weight"), dnabert
    ),
    "loralib's, in a fair-esm file": in_file(fair, adding("layers.0.self_attn.q_proj.lora_A")),
    "PEFT's, not merged": weights(peft),
    "PEFT's prefix alone": weights(prefixed("base_model.model.")),
    "an adapter in a part, its index silent": (
        lambda: split(change=adding(f"{LAYER}.lora_A")),
        INDEX,
    ),
    "IA3's": weights(adding(f"{LAYER}.ia3_l.default")),
    "DoRA's": weights(adding(f"{LAYER}.lora_magnitude_vector")),
    "the adapters library's": weights(
        adding("encoder.layer.0.output.adapters.mine.adapter_down.0.weight")
    ),
    "LoHa's": weights(adding(f"{LAYER}.hada_w1_a.default")),
    "an adapter beside the encoder": weights(adding("lora.A", "lora.B")),
    "a head that PEFT trained beside an adapter": weights(
        adding("classifier.modules_to_save.default.bias")
    ),
    "a prompt before the encoder": weights(adding("prompt.weight")),
    "a prompt's encoder": weights(adding("prompt_encoder.weight")),
    "a layer more than config.json says": (lambda: folder(num_hidden_layers=3), WEIGHTS),
    "countless layers": (lambda: folder(num_hidden_layers=10**9), WEIGHTS),
    "layers beyond any number": (lambda: folder(num_hidden_layers=10**300), WEIGHTS),
    "a layer more in a DNABERT": weights(adding("encoder.layer.1.mlp.wo.weight"), dnabert),
    "a part of a layer that ESM-2 has not": weights(adding("encoder.layer.0.gate.weight")),
    "a norm of the embeddings": weights(adding("embeddings.norm.weight")),
    "a module that is no head": weights(adding("gnn.weight")),
    "an input's projection": weights(adding("input_proj.weight")),
    "a module beside the encoder that is no head": weights(prefixed("esm.", "gnn.weight")),
    "a projection within the encoder": weights(prefixed("esm.", "esm.proj.weight")),
    "a part of a layer that a DNABERT has not": weights(
        adding("encoder.layer.0.mlp.gate.weight"), dnabert
    ),
    "two encoders, one of each naming": weights(both_namings),
    "two encoders, one without a prefix": weights(lambda state: state | prefixed("esm.")(state)),
    "a teacher beside the encoder": weights(
        lambda s: prefixed("esm.")(s) | prefixed("teacher_head.")(s)
    ),
    "one weight under two names": weights(legacy_twice),
    "a wrapped and a plain copy": weights(lambda state: state | prefixed("module.")(state)),
    "an adapter's settings beside a model": with_adapter("adapter_config.json", holding),
    "an adapter's weights beside a model": with_adapter("adapter_model.safetensors", holding),
    "an adapter alone": with_adapter("adapter_config.json", adapter_alone),
    "an old PEFT's adapter alone": with_adapter("adapter_model.bin", adapter_alone),
    "an adapter of the adapters library": with_adapter("pytorch_adapter.bin", holding),
    "fine-tuned weights beside the downloaded ones": (
        lambda: folder_of_two(spoiled(DENSE, 0.5)),
        "esm",
    ),
}

BAD_NUMBERS: dict[str, Case] = {
    "bitsandbytes' scales": weights(quantised_beside_floats),
    "GPTQ's and AWQ's packed weights": weights(adding(f"{LAYER}.qweight", f"{LAYER}.scales")),
    "a quantised model by its config.json": config(quantization_config={"load_in_8bit": True}),
    "whole numbers": weights(casting(DENSE, torch.int8)),
    "pruned weights": weights(pruned),
    "weight_norm's": weights(adding(f"{LAYER}.parametrizations.weight.original0")),
    "a NaN": weights(spoiled(DENSE, NAN, 3)),
    "an infinity": weights(spoiled(DENSE, INFINITY)),
    "a file whose end was never written": weights(
        spoiled("encoder.layer.2.intermediate.dense.weight", 0.0, None)
    ),
    "a NaN among the rotary frequencies": weights(
        lambda state: state | {"rotary_embeddings.inv_freq": torch.full((8,), NAN)}
    ),
    "rotary frequencies that differ": weights(other_rotary),
    "a NaN in a fair-esm file": in_file(fair, spoiled("layers.0.fc1.weight", NAN)),
    "an infinity among large fp16 values": weights(in_half),
    "an fp64 value beyond fp32": weights(too_large),
    "a weight that is missing": weights(dropping(DENSE)),
    "a weight of another shape": weights(adding(DENSE)),
}

NO_WEIGHTS: dict[str, Case] = {
    "a pickled model": in_file(lambda: saved(esm.model.esm2.ESM2(1, 16, 2))),
    "a git-lfs pointer": form(lambda: LFS),
    "a git-lfs pointer, in a folder": form(lambda: LFS, Path(WEIGHTS)),
    "a web page": form(lambda: PAGE),
    "a web page as .safetensors": form(lambda: PAGE, Path(WEIGHTS)),
    "a web page as .bin": form(lambda: PAGE, BIN),
    "an error in JSON": form(lambda: b'{"error":"401"}', BIN),
    "an empty file": form(lambda: b""),
    "an empty file of safetensors": form(lambda: b"", Path(WEIGHTS)),
    "a zip of a model": form(pack_zip),
    "a tar of a model": form(pack_tar),
    "a gzipped model": form(lambda: gzip.compress(b"x")),
    "TorchScript": form(torchscript),
    "HDF5": form(lambda: b"\x89HDF\r\n\x1a\n", BIN),
    "safetensors as .pt": form((DATA / "esm2_random/model.safetensors").read_bytes),
    "a pickle as .safetensors": (pickle_as_safetensors, WEIGHTS),
    "a cut file": in_file(lambda: cut(fair(), FILE)),
    "cut safetensors": (lambda: cut(folder(), Path(WEIGHTS)), WEIGHTS),
    # torch's reader fails with UnicodeDecodeError.
    # torch's reader fails with UnicodeDecodeError.
    "a pickle that ends within a word": form(lambda: b"\x80\x02X\x02\x00\x00\x00\xff\xfe."),
    "a pickle of long ago": in_file(
        lambda: saved(esm.model.esm2.ESM2(1, 16, 2), _use_new_zipfile_serialization=False)
    ),
    "an optimizer's state": in_file(optimizer),
    "a contact regression": in_file(contacts),
    "Lightning's checkpoint": in_file(
        saved, {"epoch": 1, "global_step": 2, "state_dict": {"x": ONES}}
    ),
    "Lightning's .ckpt": (lambda: saved({"state_dict": {}}, Path("m.ckpt")), "m.ckpt"),
    "a state dict in a dictionary": in_file(lambda: saved({"model": esm2()})),
    "a tensor": in_file(saved, ONES),
    "DeepSpeed's folder": (lambda: holding("zero_to_fp32.py", "", "model.safetensors"), "esm"),
    "FSDP's folder": (lambda: holding("__0_0.distcp", "", "model.safetensors"), "esm"),
    "TensorFlow's folder": (lambda: holding("tf_model.h5", "", "model.safetensors"), "esm"),
    "a folder without weights": (lambda: without("model.safetensors"), "esm"),
    "a folder without config.json": (lambda: without("config.json"), CONFIG),
    "a config.json that is no object": (lambda: holding("config.json", "[]"), CONFIG),
    "a config.json that git-lfs has": (lambda: holding("config.json", LFS.decode()), CONFIG),
    "a config.json of brackets": (lambda: holding("config.json", BRACKETS), CONFIG),
    "nothing": (lambda: "nowhere", "nowhere"),
    "the safetensors file itself": (lambda: f"{folder()}/model.safetensors", WEIGHTS),
    "an empty index": (lambda: split({}), INDEX),
    "an index that is no JSON": (
        lambda: holding("model.safetensors.index.json", BRACKETS, "model.safetensors"),
        INDEX,
    ),
    "an index of a missing part": (lambda: split({DENSE: "x.bin"}), "esm/x.bin"),
    "an index of a missing weight": (lambda: split({"other": Path(PART).name}), PART),
    "an index that leads elsewhere": (lambda: split({DENSE: f"../{PART}"}), INDEX),
}

OTHER_NAMES: dict[str, Case] = {
    "a prefix of the user's own": weights(prefixed("model.")),
    "names of another kind": weights(
        lambda state: {f"x{n:02}": state[name] for n, name in enumerate(state)}
    ),
    "a state dict of an ESM-2 of another size": in_file(lambda: saved(esm2())),
    "a state dict of another size in Hugging Face's words": in_file(
        lambda: saved(esm2_names(2, 8))
    ),
}

BAD_MODELS = OTHER_MODELS | UNUSED_WEIGHTS | BAD_NUMBERS | NO_WEIGHTS | OTHER_NAMES
