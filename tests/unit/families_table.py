"""The table of families: a row is all that the tests have to know of a family's models.

What a row states, it states by the authors' papers and code, not by the library's.
"""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from esm.data import Alphabet
from esm_in_plain import (
    by_transformers,
    fair_content,
    fair_layers,
    fair_model,
    for_masked_lm,
    rename_to_hugging_face,
    transformers_layers,
)
from esmc_in_plain import authors_state, esmc_model, plain_esmc, save_published
from models_in_plain import (
    DNABERT_FILES,
    WHOLE,
    dnabert_config,
    dnabert_state,
    dnabert_tokenizer,
    multimolecule_layers,
    plain_dnabert,
    random_dna,
    random_proteins,
    randomise,
    rename,
)
from safetensors.torch import save_file
from t5_in_plain import (
    ANKH3_TOKENS,
    LETTERS,
    SPECIALS,
    ankh_tokenizer,
    by_ankh,
    by_prot_t5,
    save_encoder,
    save_half,
    save_whole,
    save_whole_pickled,
    t5_model,
)
from torch import Tensor
from transformers import EsmcTokenizer, PreTrainedTokenizerFast

from seqembed.models.architectures import (
    Ankh3Architecture,
    AnkhArchitecture,
    Architecture,
    DnabertArchitecture,
    Esm1bArchitecture,
    Esm2Architecture,
    EsmcArchitecture,
    ProstT5Architecture,
    ProtT5Architecture,
    T5Architecture,
)
from seqembed.models.encoders.tokenization import (
    ResidueTokenizer,
    Tokenizer,
    complete_vocabulary,
)
from seqembed.models.families import FAMILIES
from seqembed.models.vocabularies import ANKH, ANKH3, ESM, ESMC, PROST_T5, PROT_T5
from seqembed.models.weights import esm1b, esm2, esmc

# The arguments are what `make` returned, the architecture, and a folder to write to, or tokens.
Write = Callable[[Any, Any, Path], Path]
# Each layer's rows, (n, width), of each sequence; the embedding's first.
Reference = Callable[[Any, Any, list[Tensor]], list[list[Tensor]]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """A family, or one of its models where they differ.

    make: returns random weights. layouts: how these are published or saved, and how to write them.
    references: other people's code, by name. sequences: returns random ones of these lengths, in
    letters, such as random_dna. odd: letters of all kinds. encode: the tokens by the authors'
    tokenizer. golden: the official tokenizers in golden_tokens.json, where none puts `[NLU]` before
    a sequence.

    small: two sizes, of which the first can be written in each layout, and the second has widths
    that are no powers of two. true: the authors' widths with fewer layers, for short sequences.
    whole: the authors' models.

    official: the table of official sizes that tells a file's architecture, and the entry that makes
    the first small size an official one.
    """

    name: str
    family: str
    small: tuple[Architecture, ...]
    true: tuple[Architecture, ...]
    whole: tuple[Architecture, ...] = ()
    make: Callable[[Any], Any]
    layouts: Mapping[str, Write]
    references: Mapping[str, Reference]
    official: tuple[dict[Any, int], Any, int] | None = None
    sequences: Callable[[list[int]], list[bytes]] = random_proteins
    odd: bytes = b"MKXBZUO.-WAC"
    encode: Callable[[bytes], list[int]]
    tokenizer: Tokenizer
    golden: tuple[str, ...] = ()
    max_length: int
    reads_whole: bool = False
    positions_end: bool = False
    pools_specials: bool = False
    has_cls: bool = True
    half: str = "fp16"
    eps: float = 1e-5

    def write(self, weights: Any, architecture: Architecture, folder: Path) -> Path:
        """Write the first layout."""
        return next(iter(self.layouts.values()))(weights, architecture, folder)

    def readable(self, *lengths: int) -> tuple[int, ...]:
        """Those of the lengths that its models have positions for."""
        return tuple(n for n in lengths if n <= self.max_length or not self.positions_end)

    def inner(self, rows: Any) -> Any:
        """The rows, or tokens, of a sequence without those of its special tokens."""
        specials = FAMILIES[self.family].specials
        return rows[specials.before : len(rows) - specials.after]

    def layer(self, weights: Any, architecture: Architecture, number: int) -> Any:
        """Returns one sequence's rows of a layer, by the first reference."""
        reference = next(iter(self.references.values()))
        return lambda tokens: reference(weights, architecture, [tokens])[number][0]


def saved(change: Callable[[Any], Any], name: str = "m.pt") -> Write:
    """A file of what `change` makes of a model."""

    def write(model: Any, _: Architecture, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        torch.save(change(model), folder / name)
        return folder / name

    return write


def by_esm_model(model: Any, architecture: Any, folder: Path) -> Path:
    by_transformers(model, architecture).esm.save_pretrained(folder)
    return folder


def by_esm_for_masked_lm(model: Any, architecture: Any, folder: Path) -> Path:
    by_transformers(model, architecture).save_pretrained(folder)
    return folder


def as_a_pickle(model: Any, architecture: Any, folder: Path) -> Path:
    """As the hub has ESM-1b and ESM-1v, and the large ESM-2."""
    found = by_transformers(model, architecture)
    found.config.save_pretrained(folder)
    torch.save(found.state_dict(), folder / "pytorch_model.bin")
    return folder


def in_data_parallel(model: Any) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in model.state_dict().items()}


FAIR_REFERENCES: dict[str, Reference] = {
    "fair-esm": lambda model, a, tokens: fair_layers(model, tokens, [*range(a.layers + 1)]),
    "transformers": lambda m, a, tokens: transformers_layers(by_transformers(m, a).esm, tokens),
}
FAIR_LAYOUTS = {
    "fair-esm's file": saved(fair_content),
    "fair-esm's weights": saved(lambda model: model.state_dict()),
    "fair-esm in DataParallel": saved(in_data_parallel),
    "EsmModel": by_esm_model,
    "EsmForMaskedLM": by_esm_for_masked_lm,
    "EsmForMaskedLM as a pickle": as_a_pickle,
}
# A file cannot show whether transformers' names are ESM-1v's.
ESM2_LAYOUTS = {
    "EsmModel in a file": saved(lambda model: rename_to_hugging_face(model.state_dict())),
    "EsmForMaskedLM in a file": saved(lambda model: for_masked_lm(model.state_dict())),
}
CONVERT = Alphabet.from_architecture("ESM-1b").get_batch_converter()
ESMC_TOKENIZER = EsmcTokenizer()
DNABERT_TOKENIZER = PreTrainedTokenizerFast(
    tokenizer_file=str(DNABERT_FILES / "tokenizer.json"), unk_token="[UNK]"
)
DNABERT_TOKENIZER.backend_tokenizer.no_padding()
DNABERT_TOKENIZER.backend_tokenizer.no_truncation()


def by_alphabet(residues: bytes) -> list[int]:
    return CONVERT([("", residues.decode())])[2][0].tolist()


def by_esmc(model: Any, architecture: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def by_esmc_model(model: Any, architecture: Any, folder: Path) -> Path:
    model.esmc.save_pretrained(folder)
    return folder


def esmc_formulas(model: Any, architecture: Any, tokens: list[Tensor]) -> list[list[Tensor]]:
    state = authors_state(model)
    with torch.inference_mode():
        found = [plain_esmc(state, architecture.heads, t) for t in tokens]
    return [list(layer) for layer in zip(*found, strict=True)]


def dnabert_folder_of(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], pickled: bool = False
) -> Write:
    def write(state: dict[str, Tensor], a: Any, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(
            json.dumps(dnabert_config(a.layers, a.width, a.heads, a.ffn_width))
        )
        shutil.copy(DNABERT_FILES / "tokenizer.json", folder)
        if pickled:
            torch.save(change(state), folder / "pytorch_model.bin")
        else:
            save_file(change(state), folder / "model.safetensors")
        return folder

    return write


def legacy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return rename(
        state, {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    )


def in_bert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"bert.{name}": tensor for name, tensor in state.items()}


def dnabert_formulas(state: Any, architecture: Any, tokens: list[Tensor]) -> list[list[Tensor]]:
    found = [plain_dnabert(state, architecture.heads, t) for t in tokens]
    return [list(layer) for layer in zip(*found, strict=True)]


def by_multimolecule(state: Any, architecture: Any, tokens: list[Tensor]) -> list[list[Tensor]]:
    pytest.importorskip("multimolecule", reason="multimolecule (AGPL-3.0) is not installed")
    return multimolecule_layers(state, architecture.heads, tokens)


def esm1(name: str, *, embedding_norm: bool, widths: tuple[int, ...]) -> Member:
    sized = functools.partial(Esm1bArchitecture, embedding_norm=embedding_norm)
    return Member(
        name=name,
        family="esm1b",
        small=(sized(2, 64, 4, 256), sized(3, 60, 5, 100, token_dropout=False)),
        true=tuple(sized(2, width, 20, 4 * width) for width in widths),
        make=fair_model,
        layouts=FAIR_LAYOUTS,
        references=FAIR_REFERENCES,
        official=(esm1b.KNOWN_HEADS, (2, 64), 4),
        encode=by_alphabet,
        tokenizer=ResidueTokenizer(ESM),
        golden=("esm2_8m",),
        max_length=1022,
        positions_end=True,
    )


def sizes_of_esm2(*sizes: tuple[int, int]) -> tuple[Architecture, ...]:
    return tuple(Esm2Architecture(layers, width, 20, 4 * width) for layers, width in sizes)


def t5(
    name: str,
    architecture: Callable[..., T5Architecture],
    sizes: tuple[Any, ...],
    before: int,
    encode: Callable[[bytes], list[int]],
    **facts: Any,
) -> Member:
    """A family of T5s; sizes: T5Architecture's from `activation` on. before: special tokens."""
    return Member(
        name=name,
        small=(architecture(3, 48, 4, 128, 16, *sizes), architecture(2, 36, 3, 52, 20, *sizes)),
        make=t5_model,
        layouts={
            "T5EncoderModel": save_encoder,
            "a whole T5": save_whole,
            "a whole T5 as a pickle": save_whole_pickled,
            "T5EncoderModel in fp16 as a pickle": save_half,
        },
        references={"transformers": lambda m, _, tokens: transformers_layers(m, tokens)},
        encode=encode,
        max_length=511 - before,
        reads_whole=True,
        has_cls=False,
        eps=1e-6,
        **facts,
    )


ANKH3_FOLDER = tempfile.TemporaryDirectory()
ankh_tokenizer(ANKH3_TOKENS, "[NLU]").save(f"{ANKH3_FOLDER.name}/tokenizer.json")
ANKH3_VOCABULARY = complete_vocabulary(ANKH3, Path(ANKH3_FOLDER.name) / "tokenizer.json")
PROT_T5_SIZES, ANKH_SIZES = ("relu", 32, 128, 128), ("gated-gelu", 64, 128, 144)
ANKH3_SIZES = ("gated-silu", 64, 128, 256)
TABLE = (
    Member(
        name="ESM-2",
        family="esm2",
        small=(Esm2Architecture(3, 64, 4, 256), Esm2Architecture(3, 60, 5, 240, False)),
        true=sizes_of_esm2((2, 320), (2, 480), (2, 640), (2, 1280)),
        whole=sizes_of_esm2((6, 320), (12, 480), (30, 640), (33, 1280)),
        make=fair_model,
        layouts=FAIR_LAYOUTS | ESM2_LAYOUTS,
        references=FAIR_REFERENCES,
        official=(esm2.KNOWN_HEADS, (3, 64), 4),
        encode=by_alphabet,
        tokenizer=ResidueTokenizer(ESM),
        golden=("esm2_8m",),
        max_length=1022,
    ),
    esm1("ESM-1b", embedding_norm=True, widths=(1280,)),
    # It has the width of ESM-1b.
    esm1("ESM-1v", embedding_norm=False, widths=()),
    Member(
        name="ESM C",
        family="esmc",
        small=(EsmcArchitecture(3, 192, 3, 512), EsmcArchitecture(2, 48, 4, 80)),
        true=(EsmcArchitecture(2, 960, 15, 2560), EsmcArchitecture(2, 1152, 18, 3072)),
        whole=(EsmcArchitecture(30, 960, 15, 2560),),
        make=lambda architecture: randomise(esmc_model(architecture)),
        layouts={
            "EsmcForMaskedLM": by_esmc,
            "EsmcModel": by_esmc_model,
            "biohub's folder": lambda model, _, folder: save_published(model, folder),
            "the file of 2024": saved(authors_state, "esmc_300m_2024_12_v0.pth"),
        },
        references={
            "transformers": lambda model, _, tokens: transformers_layers(model.esmc, tokens),
            "the authors' formulas": esmc_formulas,
        },
        official=(esmc.KNOWN_LAYERS, 192, 3),
        encode=lambda residues: ESMC_TOKENIZER(residues.decode())["input_ids"],
        tokenizer=ResidueTokenizer(ESMC),
        golden=("esmc_small", "esmc_large", "esmc_6b"),
        max_length=2046,
        half="bf16",
    ),
    t5(
        "ProtT5",
        ProtT5Architecture,
        PROT_T5_SIZES,
        0,
        by_prot_t5(),
        family="prot_t5",
        true=(ProtT5Architecture(2, 1024, 32, 16384, 128, *PROT_T5_SIZES),),
        tokenizer=ResidueTokenizer(PROT_T5),
    ),
    t5(
        "ProstT5",
        ProstT5Architecture,
        (*PROT_T5_SIZES[:3], 150),
        1,
        by_prot_t5("<AA2fold>", *"algvsredtipkfqnymhwc", "<fold2AA>", "<AA2fold>"),
        family="prost_t5",
        # It has the widths of ProtT5.
        true=(),
        tokenizer=ResidueTokenizer(PROST_T5),
    ),
    t5(
        "Ankh",
        AnkhArchitecture,
        ANKH_SIZES,
        0,
        by_ankh((*SPECIALS, *LETTERS)),
        family="ankh",
        true=(AnkhArchitecture(2, 768, 12, 3072, 64, *ANKH_SIZES),),
        # Of the large one two layers.
        whole=(
            AnkhArchitecture(48, 768, 12, 3072, 64, *ANKH_SIZES),
            AnkhArchitecture(2, 1536, 16, 3840, 64, *ANKH_SIZES),
        ),
        tokenizer=ResidueTokenizer(ANKH),
        golden=("ankh_base", "ankh_large"),
        half="bf16",
    ),
    t5(
        "Ankh 3",
        Ankh3Architecture,
        ANKH3_SIZES,
        1,
        by_ankh(ANKH3_TOKENS, "[NLU]"),
        family="ankh3",
        # It has the widths of Ankh.
        true=(),
        whole=(Ankh3Architecture(2, 1536, 16, 3840, 64, *ANKH3_SIZES),),
        tokenizer=ResidueTokenizer(ANKH3_VOCABULARY),
        golden=("ankh3_large", "ankh3_xl"),
        half="bf16",
    ),
    Member(
        name="DNABERT-S",
        family="dnabert_s",
        small=(DnabertArchitecture(3, 48, 6, 96, 4096), DnabertArchitecture(2, 48, 4, 80, 4096)),
        true=(DnabertArchitecture(1, 768, 12, 3072, 4096),),
        whole=tuple(DnabertArchitecture(layers, 768, 12, 3072, 4096) for layers in (3, 12)),
        make=lambda a: dnabert_state(a.layers, a.width, a.ffn_width),
        layouts={
            "the authors' folder": dnabert_folder_of(dict, pickled=True),
            "safetensors": dnabert_folder_of(dict),
            "older names of norms": dnabert_folder_of(legacy),
            "a model with a head": dnabert_folder_of(in_bert),
            "a model with a head as a pickle": dnabert_folder_of(in_bert, pickled=True),
        },
        references={"the formulas": dnabert_formulas, "multimolecule": by_multimolecule},
        sequences=random_dna,
        odd=b"ACGTNNNNRYACGT",
        encode=lambda residues: DNABERT_TOKENIZER(residues.decode())["input_ids"],
        tokenizer=dnabert_tokenizer(),
        max_length=1998,
        reads_whole=True,
        pools_specials=True,
        eps=1e-12,
    ),
)
# Where products are wide, a row takes a hundred times as long as at a small size.
TRUE_LENGTHS = (1, 2, 50, 300)
WHOLE_LENGTHS = (1, 2, 50, 300, 1022, 2000)
EACH = pytest.mark.parametrize("member", TABLE, ids=lambda member: member.name)
# Every size, with the lengths of its sequences.
SIZES = [
    (member, architecture, lengths)
    for member in TABLE
    for sizes, lengths in (
        (member.small, member.readable(1, 2, 37, 128, 255, 600, 1022, 2000)),
        (member.true, TRUE_LENGTHS),
        (member.whole if WHOLE else (), member.readable(*WHOLE_LENGTHS)),
    )
    for architecture in sizes
]
