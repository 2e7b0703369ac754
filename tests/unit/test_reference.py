"""The bundled example through every entry program, against transformers' EsmModel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from transformers import EsmModel

from seqembed.fasta import read_records
from seqembed.models.esm2 import encode_residues

ROOT = Path(__file__).parents[2]
FASTA = ROOT / "resources/example/proteins.fasta"
MODEL = ROOT / "resources/models/esm2_random"
MAX_LENGTH = 1022


def call(folder: Path, entry: str, **options: object) -> None:
    words = [sys.executable, str(ROOT / "workflow/scripts" / f"{entry}.py")]
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    subprocess.run(words, cwd=folder, check=True)


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("example")
    what = {"long_sequences": "truncate", "max_length": "auto"}
    call(folder, "prepare_model", name="toy", source=MODEL, output="toy.json")
    call(folder, "index", fasta=FASTA, ids="header", output="r/index.parquet")
    call(
        folder, "split", index="r/index.parquet", model="toy.json", world_size=2,
        output_dir="r/index", **what,
    )  # fmt: skip
    for rank in range(2):
        call(
            folder, "embed_shard", index=f"r/index/shard_{rank}.parquet", model="toy.json",
            rank=rank, world_size=2, output=f"r/shards/shard_{rank}.h5", precision="auto",
            device="cpu", token_budget="auto", checkpoint_sequences=7, checkpoint_seconds=300,
            threads=1, log=f"worker_{rank}.log", **what,
        )  # fmt: skip
    shards = [f"r/shards/shard_{rank}.h5" for rank in range(2)]
    call(folder, "merge", index="r/index.parquet", shards=shards, output="r/embeddings.h5")
    return folder / "r/embeddings.h5"


def test_rows_equal_transformers(embeddings):
    records = list(read_records(FASTA))
    theirs = EsmModel.from_pretrained(MODEL, add_pooling_layer=False).eval()
    with h5py.File(embeddings) as file:
        ids, rows = list(file["sequence_ids"].asstr()[:]), file["embeddings"][:]
        flags, lengths = file["flags"][:], file["lengths"][:]
    assert ids == [record.sequence_id for record in records]
    assert lengths.tolist() == [len(record.residues) for record in records]
    assert (flags == 2).tolist() == [len(record.residues) > MAX_LENGTH for record in records]
    assert (flags == 2).sum() == 10
    for record, row in zip(records, rows, strict=True):
        tokens = torch.from_numpy(encode_residues(record.residues[:MAX_LENGTH]))[None]
        with torch.inference_mode():
            hidden = theirs(tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
        expected = hidden[0, 1:-1].mean(0).numpy()
        assert np.abs(row - expected).max() <= 1e-4
        a, b = row.astype(np.float64), expected.astype(np.float64)
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) >= 0.99999
