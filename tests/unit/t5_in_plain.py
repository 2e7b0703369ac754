"""T5s with random weights by transformers, and the tokenizers of ProtT5, ProstT5 and Ankh."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from models_in_plain import randomise
from tokenizers import Tokenizer as TokenizerFile
from tokenizers.models import Unigram
from tokenizers.processors import TemplateProcessing
from transformers import T5Config, T5EncoderModel, T5ForConditionalGeneration, T5Tokenizer

from seqembed.models.architectures import Ankh3Architecture, T5Architecture

SPECIALS = ("<pad>", "</s>", "<unk>")
LETTERS = "ALGVSREDTIPKFQNYMHWCXBOUZ"
# The order of residues that the ids in golden_tokens.json show. The ids before them are not known,
# nor whether more letters follow.
ANKH3_TOKENS = (*SPECIALS, "[NLU]", "[NLG]", "[S2S]", "▁", *"LAGSVERTIDPKNFQYHMCWXBU")
Encode = Callable[[bytes], list[int]]


def config_of(a: T5Architecture) -> T5Config:
    return T5Config(
        vocab_size=a.vocabulary,
        d_model=a.width,
        d_kv=a.head_width,
        d_ff=a.ffn_width,
        num_layers=a.layers,
        num_heads=a.heads,
        relative_attention_num_buckets=a.buckets,
        relative_attention_max_distance=a.max_distance,
        feed_forward_proj=a.activation,
    )


def t5_model(architecture: T5Architecture) -> T5EncoderModel:
    """Weights that fp16 holds exactly, as some authors publish them."""
    model = randomise(T5EncoderModel(config_of(architecture)))
    with torch.no_grad():
        for block in model.encoder.block:
            # As transformers' T5 begins to train: nothing else scales the scores.
            block.layer[0].SelfAttention.q.weight.mul_(architecture.head_dim**-0.5)
    return model.half().float()


def small_t5(vocabulary: int = 128, **changes: Any) -> T5EncoderModel:
    """A small ProtT5, or a T5 of another vocabulary; changes: to fields of its architecture."""
    sizes = {"layers": 2, "width": 16, "heads": 2, "ffn_width": 32, "head_width": 4}
    fields = sizes | {"activation": "relu", "buckets": 32, "max_distance": 128} | changes
    return t5_model(T5Architecture(**fields, vocabulary=vocabulary))


def whole_t5(model: T5EncoderModel) -> T5ForConditionalGeneration:
    """The model with a decoder and a head."""
    found = T5ForConditionalGeneration(model.config).eval()
    result = found.load_state_dict(model.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert all(name.startswith(("decoder.", "lm_head")) for name in result.missing_keys)
    return found


def save_whole(model: T5EncoderModel, architecture: T5Architecture, folder: Path) -> Path:
    whole_t5(model).save_pretrained(folder)
    return with_tokens(architecture, folder)


def save_encoder(model: T5EncoderModel, architecture: T5Architecture, folder: Path) -> Path:
    model.save_pretrained(folder)
    return with_tokens(architecture, folder)


def save_half(model: T5EncoderModel, architecture: T5Architecture, folder: Path) -> Path:
    """As prot_t5_xl_half_uniref50-enc on the hub."""
    model.config.save_pretrained(folder)
    state = {name: tensor.half() for name, tensor in model.state_dict().items()}
    torch.save(state, folder / "pytorch_model.bin")
    return with_tokens(architecture, folder)


def save_whole_pickled(model: T5EncoderModel, architecture: T5Architecture, folder: Path) -> Path:
    """As prot_t5_xl_uniref50, ProstT5 and the Ankhs on the hub."""
    model.config.save_pretrained(folder)
    torch.save(whole_t5(model).state_dict(), folder / "pytorch_model.bin")
    return with_tokens(architecture, folder)


def with_tokens(architecture: T5Architecture, folder: Path) -> Path:
    if isinstance(architecture, Ankh3Architecture):
        ankh_tokenizer(ANKH3_TOKENS, "[NLU]").save(str(folder / "tokenizer.json"))
    return folder


def by_prot_t5(prefix: str = "", *more: str) -> Encode:
    """transformers' tokenizer, as ProtT5's and ProstT5's authors call it."""
    pieces = [*SPECIALS, *(f"▁{letter}" for letter in LETTERS)]
    tokenizer = T5Tokenizer(vocab=[(piece, -2.0) for piece in pieces], extra_ids=100)
    tokenizer.add_tokens([*more])
    replaced = bytes.maketrans(b"UZOB", b"XXXX")

    def encode(residues: bytes) -> list[int]:
        text = " ".join(residues.translate(replaced).decode())
        found: list[int] = tokenizer(f"{prefix} {text}".strip())["input_ids"]
        return found

    return encode


def ankh_tokenizer(tokens: tuple[str, ...], prefix: str = "") -> TokenizerFile:
    tokenizer = TokenizerFile(Unigram([(token, -2.0) for token in tokens], unk_id=2))
    marked = [prefix, "</s>"] if prefix else ["</s>"]
    tokenizer.add_special_tokens(marked)
    tokenizer.post_processor = TemplateProcessing(
        single=f"{prefix} $A </s>".strip(), special_tokens=[(t, tokens.index(t)) for t in marked]
    )
    return tokenizer


def by_ankh(tokens: tuple[str, ...], prefix: str = "") -> Encode:
    tokenizer = ankh_tokenizer(tokens, prefix)

    def encode(residues: bytes) -> list[int]:
        # A run of unknown letters would become one token.
        inner = [tokenizer.encode(chr(letter)).ids[bool(prefix) : -1] for letter in residues]
        ids = tokenizer.encode("").ids
        return [*ids[:-1], *sum(inner, []), ids[-1]]

    return encode
