"""Proteins and DNA through every entry program, against the model authors' own rows."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from esm.model.esm2 import ESM2
from models_in_plain import (
    SHAPES,
    WHOLE,
    assert_close,
    dnabert_folder,
    dnabert_state,
    dnabert_tokenizer,
    encode,
    fair_layers,
    fair_model,
    plain_dnabert,
    random_dna,
    random_proteins,
    save_fair,
)
from torch import Tensor

from seqembed.fasta.reader import read_records
from seqembed.models.encoders.tokenization import Tokenizer
from seqembed.settings.lengths import LengthPolicy

SCRIPTS = Path(__file__).parents[2] / "workflow/scripts"
DNABERT = (2, 48, 4, 96)
DEFAULTS = {
    "layer": "last",
    "pooling": "mean",
    "per_residue": True,
    "precision": "auto",
    "storage": "float32",
    "long_sequences": "auto",
    "max_length": "auto",
}
EXECUTION = {
    "device": "cpu",
    "token_budget": 700,
    "checkpoint_seq_threshold": 3,
    "checkpoint_time_threshold": 300,
}
FULL = LengthPolicy(long_sequences="full", max_length=0)
# (n + 2,) tokens -> (n + 2, D) rows of one layer, by somebody else's code.
Reference = Callable[[Tensor], Tensor]


def window(max_length: int) -> LengthPolicy:
    return LengthPolicy(long_sequences="window", max_length=max_length)


def call(folder: Path, entry: str, **options: object) -> None:
    words = [sys.executable, str(SCRIPTS / f"{entry}.py")]
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    subprocess.run(words, cwd=folder, check=True)


def run(
    folder: Path, source: Path, invalid_residues: str, world_size: int = 1, **changes: object
) -> Path:
    """embeddings.h5 of in.fasta, with token rows."""
    what = DEFAULTS | changes
    length = {name: what[name] for name in ("layer", "long_sequences", "max_length")}
    call(folder, "prepare_model", name="toy", source=source, output="toy.json")
    call(
        folder, "index", fasta="in.fasta", ids="header", model="toy.json",
        invalid_residues=invalid_residues, gaps="keep", suspicious="allow",
        output="r/index.parquet",
    )  # fmt: skip
    call(
        folder, "split", index="r/index.parquet", model="toy.json", world_size=world_size,
        output_dir="r/index", **length,
    )  # fmt: skip
    for rank in range(world_size):
        call(
            folder, "embed_shard", index=f"r/index/shard_{rank}.parquet", model="toy.json",
            rank=rank, world_size=world_size, output=f"r/shards/shard_{rank}.h5",
            settings=json.dumps(what), execution=json.dumps(EXECUTION), threads=1,
            log=f"worker_{rank}.log",
        )  # fmt: skip
    call(
        folder, "merge", index="r/index.parquet", output="r/embeddings.h5",
        shards=[f"r/shards/shard_{rank}.h5" for rank in range(world_size)],
        quarantine="r/quarantine.tsv",
    )  # fmt: skip
    return folder / "r/embeddings.h5"


def stitched(tokens: Tensor, policy: LengthPolicy, rows_of: Reference) -> Tensor:
    """The rows of a sequence's kept tokens and its two specials, window by window."""
    parts, windows = [], policy.cut(len(tokens) - 2)
    for number, window in enumerate(windows):
        inner = tokens[1 + window.start : 1 + window.stop]
        rows = rows_of(torch.cat((tokens[:1], inner, tokens[-1:])))
        begin = window.keep_start - window.start + (number > 0)
        end = window.keep_stop - window.start + 1 + (number == len(windows) - 1)
        parts.append(rows[begin:end])
    return torch.cat(parts)


def pooled(rows: Tensor, pooling: str, pools_specials: bool) -> Tensor:
    counted = rows if pools_specials else rows[1:-1]
    return {"mean": counted.mean(0), "max": counted.amax(0), "cls": rows[0]}[pooling]


def assert_rows(
    path: Path, sequences: list[bytes], tokenizer: Tokenizer | None, policy: LengthPolicy,
    rows_of: Reference, pooling: str, pools_specials: bool, half: bool = False,
) -> None:  # fmt: skip
    """Every pooled row and every token row is the reference's."""
    expected = [stitched(tokens, policy, rows_of) for tokens in encode(sequences, tokenizer)]
    with h5py.File(path) as file:
        rows = torch.from_numpy(file["embeddings"][:].astype(np.float32))
        offsets = file["residues/offsets"][:].tolist()
        token_rows = torch.from_numpy(file["residues/embeddings"][:].astype(np.float32))
    assert offsets == np.cumsum([0, *(len(own) - 2 for own in expected)]).tolist()
    ours = [*rows, *(token_rows[a:b] for a, b in zip(offsets[:-1], offsets[1:], strict=True))]
    theirs = [pooled(own, pooling, pools_specials) for own in expected]
    theirs += [own[1:-1] for own in expected]
    if half:
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    else:
        assert_close(ours, theirs)


def write_fasta(folder: Path, sequences: list[bytes]) -> None:
    text = "".join(f">s{n}\n{residues.decode()}\n" for n, residues in enumerate(sequences))
    (folder / "in.fasta").write_text(text)


PROTEINS = [*random_proteins([1, 40, 150, 1022, 1023, 1700, 90]), b"MKXBZUO.-WAC" * 9]
DNA = [*random_dna([1, 30, 700, 5000, 250], seed=4), b"ACGTNNNNRYACGT" * 12]


@functools.cache
def toy() -> ESM2:
    return fair_model((2, 40, 4))


def fair(layer: int, model: ESM2 | None = None) -> Reference:
    """fair-esm's rows of a layer; of `toy` where no model is given."""
    return lambda tokens: fair_layers(model or toy(), [tokens], [layer])[0][0]


@pytest.mark.parametrize(
    ("changes", "policy"),
    [
        ({}, window(1022)),
        ({"pooling": "max", "max_length": 101, "storage": "float16"}, window(101)),
        ({"pooling": "cls", "layer": 1, "long_sequences": "full"}, FULL),
    ],
)
def test_proteins(changes, policy, tmp_path):
    source = save_fair(toy(), tmp_path / "m.pt")
    write_fasta(tmp_path, PROTEINS)
    path = run(tmp_path, source, "error", **changes)
    rows_of = fair(changes.get("layer", 2))
    pooling, half = changes.get("pooling", "mean"), "storage" in changes
    assert_rows(path, PROTEINS, None, policy, rows_of, pooling, False, half)
    with h5py.File(path) as file:
        long = [len(residues) > policy.max_length > 0 for residues in PROTEINS]
        flag = {"window": 1, "truncate": 2, "full": 0}[policy.long_sequences]
        assert file["flags"][:].tolist() == [flag * is_long for is_long in long]
        assert file["embeddings"].dtype == file["residues/embeddings"].dtype
        assert file["embeddings"].dtype.name == changes.get("storage", "float32")


@pytest.mark.skipif(not WHOLE, reason="takes minutes: set SEQEMBED_WHOLE_SHAPES=1")
@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("size", SHAPES)
def test_whole_shapes(size, pooling, tmp_path):
    theirs, proteins = fair_model(size), random_proteins([1, 2, 50, 300, 1022, 2000])
    write_fasta(tmp_path, proteins)
    source = save_fair(theirs, tmp_path / "m.pt")
    path = run(tmp_path, source, "error", pooling=pooling, long_sequences="full")
    rows_of = fair(size[0], theirs)
    assert_rows(path, proteins, None, FULL, rows_of, pooling, False)


@pytest.mark.parametrize(
    ("changes", "policy"),
    [
        ({}, FULL),
        ({"pooling": "max", "layer": 1, "long_sequences": "window", "max_length": 80}, window(80)),
    ],
)
def test_dna(changes: dict[str, Any], policy, tmp_path):
    source = dnabert_folder(tmp_path / "m", DNABERT, pickled=True)
    write_fasta(tmp_path, DNA)
    path = run(tmp_path, source, "unk", **changes)
    state = dnabert_state(DNABERT[0], DNABERT[1], DNABERT[3])
    layer = changes.get("layer", 2)
    rows_of = functools.partial(_dnabert_layer, state, layer)
    pooling = changes.get("pooling", "mean")
    assert_rows(path, DNA, dnabert_tokenizer(), policy, rows_of, pooling, True)


def _dnabert_layer(state: dict[str, Tensor], layer: int, tokens: Tensor) -> Tensor:
    return plain_dnabert(state, DNABERT[2], tokens)[layer]


def test_ids_stand_in_input_order_beside_their_own_rows(tmp_path):
    source = save_fair(toy(), tmp_path / "m.pt")
    sequences = [PROTEINS[n] for n in (2, 1, 6, 2, 0)]
    write_fasta(tmp_path, [*sequences, b"MJ*K"])
    path = run(tmp_path, source, "skip", world_size=2)
    records = list(read_records(tmp_path / "in.fasta"))
    with h5py.File(path) as file:
        assert file["sequence_ids"].asstr()[:].tolist() == [r.sequence_id for r in records[:-1]]
        assert file["lengths"][:].tolist() == [len(residues) for residues in sequences]
    assert_rows(path, sequences, None, FULL, fair(2), "mean", False)
    lines = (tmp_path / "r/quarantine.tsv").read_text().splitlines()
    assert lines[0] == "sequence_id\treason"
    assert len(lines) == 2 and lines[1].startswith("s5\tresidue 'J' at 2")
