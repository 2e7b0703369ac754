"""The programs `index` and `split`, for proteins and for DNA."""

from __future__ import annotations

import gzip
import json
import random
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from described_models import DNA_TOKENIZER, write_dna_model, write_protein_model, write_t5_model
from worker_runs import EMBEDDING, SCRIPTS

from seqembed.models.encoders.tokenization import BpeTokenizer


class Place:
    """A folder in which the programs are called."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model
        self.open_files = resource.getrlimit(resource.RLIMIT_NOFILE)

    def fasta(self, name: str, **records: str) -> str:
        text = "".join(f">{key} about\n{value}\n" for key, value in records.items()).encode()
        path = self.folder / name
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        return name

    def call(self, entry: str, *words: object) -> Any:
        command = [sys.executable, SCRIPTS / f"{entry}.py", *words, "--model", self.model]
        how: Any = {"cwd": self.folder, "capture_output": True, "text": True, "check": False}
        how["preexec_fn"] = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, self.open_files)
        return subprocess.run(list(map(str, command)), **how)

    def index(self, *fasta: str, asked: str = "error") -> Any:
        options = ["--ids", "header", "--invalid-residues", asked, "--output", "index.parquet"]
        options += ["--gaps", "error", "--suspicious", "error", "--residues", "residues.bin"]
        return self.call("index", "--fasta", *fasta, *options)

    def split(
        self,
        asked: str = "auto",
        length: object = "auto",
        shards: int = 1,
        pooling: str = "mean",
    ) -> Any:
        changes = {"long_sequences": asked, "max_length": length, "pooling": pooling}
        return self.split_by(EMBEDDING | changes, "--world-size", shards)

    def split_by(self, settings: object, *words: object) -> Any:
        options = ["--index", "index.parquet", "--residues", "residues.bin", "--device", "cpu"]
        options += ["--settings", json.dumps(settings), "--output-dir", "index"]
        return self.call("split", *options, *words)

    def rows(self, shards: int = 1) -> list[dict[str, Any]]:
        paths = [self.folder / f"index/shard_{rank}.parquet" for rank in range(shards)]
        return [row for path in paths for row in pq.read_table(path).to_pylist()]


@pytest.fixture
def proteins(tmp_path) -> Place:
    return Place(tmp_path, write_protein_model(tmp_path))


@pytest.fixture
def dna(tmp_path) -> Place:
    return Place(tmp_path, write_dna_model(tmp_path))


def test_proteins(proteins):
    files = proteins.fasta("a.faa", a="mkv*", b="WEWE"), proteins.fasta("b.faa.gz", c="MKV")
    outcome = proteins.index(*files)
    assert (outcome.returncode, outcome.stderr.count("\n")) == (0, 1)
    assert "index.parquet: 3 sequences of 2 files" in outcome.stderr
    outcome = proteins.split(shards=3)
    assert outcome.returncode == 0
    assert "2 distinct of 3 sequences, in 3 shards" in outcome.stderr
    found = [(row["sequence_id"], row["residues"], row["tokens"]) for row in proteins.rows(3)]
    assert found == [("b", b"WEWE", 4), ("a", b"MKV", 3)]


def test_dna_and_a_genome_of_a_million_bases(dna):
    genome = "".join(random.Random(4).choices("acgt", k=1_000_000))
    assert dna.index(dna.fasta("a.fna.gz", a="ACGT", b=genome, c="acgt")).returncode == 0
    assert dna.split(shards=2).returncode == 0
    found = [(row["sequence_id"], row["length"], row["tokens"]) for row in dna.rows(2)]
    tokenizer = BpeTokenizer(DNA_TOKENIZER)
    count = tokenizer.count(genome.upper().encode())
    assert found == [("b", 1_000_000, count), ("a", 4, tokenizer.count(b"ACGT"))]
    assert 180_000 < count < 240_000


def test_invalid_residues_are_let_pass_or_left_out(proteins):
    files = proteins.fasta("a.faa", a="MKV", b="MJ"), proteins.fasta("b.faa", c="M*K", d="W")
    assert "read as its unknown token" in proteins.index(*files, asked="unk").stderr
    assert "4 distinct of 4 sequences" in proteins.split().stderr
    assert "2 of 4 sequences are left out" in proteins.index(*files, asked="skip").stderr
    assert "2 distinct of 2 sequences" in proteins.split().stderr
    assert [row["sequence_id"] for row in proteins.rows()] == ["a", "d"]


def test_long_sequences(proteins):
    assert proteins.index(proteins.fasta("a.faa", a="MKVLW" * 300, b="W")).returncode == 0
    for asked in ("auto", "window", "truncate", "full"):
        assert proteins.split(asked).returncode == 0
        assert [row["tokens"] for row in proteins.rows()] == [1500, 1]
    outcome = proteins.split("error")
    assert outcome.returncode == 1
    assert "1 of 2 sequences are longer than 1,022 residues" in outcome.stderr
    assert "record 'a' of a.faa" in outcome.stderr
    assert proteins.split("error", 1500).returncode == 0
    assert "max_length must be" in proteins.split("window", 0).stderr


def test_more_shards_than_can_be_merged_are_refused(proteins):
    assert proteins.index(proteins.fasta("a.faa", one="MKV")).returncode == 0
    proteins.open_files = (60, 60)
    outcome = proteins.split(shards=60)
    assert outcome.returncode == 1 and "files have to be open at once" in outcome.stderr
    assert "fewer `shards`" in outcome.stderr
    assert not (proteins.folder / "index").exists()


def test_a_token_that_the_model_lacks_is_refused_before_a_shard_is_made(tmp_path):
    place = Place(tmp_path, write_t5_model(tmp_path))
    assert place.index(place.fasta("a.faa", one="MKV")).returncode == 0
    outcome = place.split(pooling="cls")
    assert outcome.returncode == 1
    assert "pooling is cls, but t5 has no token for the whole sequence" in outcome.stderr
    assert "set `embedding: {pooling: mean}`" in outcome.stderr
    assert not (place.folder / "index").exists()
    assert place.split(pooling="max").returncode == 0


def test_the_token_of_the_whole_sequence_may_be_asked_for(proteins):
    assert proteins.index(proteins.fasta("a.faa", one="MKV")).returncode == 0
    assert proteins.split(pooling="cls").returncode == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (EMBEDDING | {"pool": "max"}, "--settings: a key is missing or not known: .*'pool'"),
        ({"layer": "last"}, "--settings: a key is missing or not known: .*'pooling'"),
        (["layer"], "--settings: a key is missing or not known: "),
        (EMBEDDING | {"storage": "int8"}, "storage must be one of float32, float16, not 'int8'"),
    ],
)
def test_settings_that_are_not_right_are_refused(proteins, settings, message):
    assert proteins.index(proteins.fasta("a.faa", one="MKV")).returncode == 0
    outcome = proteins.split_by(settings, "--world-size", 1)
    assert outcome.returncode == 1 and outcome.stderr.count("\n") == 1
    assert re.search(f"^split \\S+: {message}", outcome.stderr)


@pytest.mark.parametrize("given", [(), ("a.h5", "./-x.h5")])
def test_split_takes_any_number_of_earlier_results(proteins, given):
    assert proteins.index(proteins.fasta("a.faa", one="MKV")).returncode == 0
    for name in given:
        (proteins.folder / name).write_bytes(b"is no result")
    words = ("--world-size", 1, "--reuse", *given, "--stores", *given)
    outcome = proteins.split_by(EMBEDDING, *words)
    assert outcome.returncode == 0
    looked_at = re.findall(r"(\S+): is not reused: ", outcome.stderr)
    assert looked_at == [str(Path(name)) for name in given]


def test_an_earlier_result_that_is_missing_is_refused_before_a_shard_is_made(proteins):
    assert proteins.index(proteins.fasta("a.faa", one="MKV")).returncode == 0
    (proteins.folder / "a.h5").write_bytes(b"is no result")
    outcome = proteins.split_by(EMBEDDING, "--world-size", 1, "--reuse", "a.h5", "gone/*.h5")
    assert outcome.returncode == 1
    assert ": reuse: gone/*.h5 names no file" in outcome.stderr
    assert not (proteins.folder / "index").exists()


@pytest.mark.parametrize(("entry", "module"), [("index", "writer"), ("split", "split")])
def test_torch_is_not_imported(entry, module):
    code = f"import sys, runpy; runpy.run_path({str(SCRIPTS / f'{entry}.py')!r})\n"
    code += f"assert 'seqembed.index.{module}' in sys.modules\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, check=True)
