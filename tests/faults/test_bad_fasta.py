"""Malformed FASTA is refused with its place, and the layouts of programs are read as they mean."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bad_fasta import BAD_FASTA, Case, make_case
from described_models import write_dna_model, write_protein_model
from odd_fasta import ODD_FASTA
from real_layouts import LAYOUTS
from snapshot import check_snapshot

from seqembed.fasta.compression import zstd
from seqembed.fasta.reader import read_batches
from seqembed.index.reader import read_ids_and_reasons, read_lengths_and_digests

TESTS = Path(__file__).parents[1]
ODD = {f"{kind}: {name}": odd for kind, cases in ODD_FASTA.items() for name, odd in cases.items()}
CASES = BAD_FASTA | ODD
COMPRESS = {"gzip": gzip, "bzip2": bz2, "xz": lzma, "zstd": zstd}


class Indexer:
    """Calls the program `index`, each time in a folder of its own."""

    def __init__(self, folder: Path, program: Any) -> None:
        self._folder, self._program, self._count = folder, program, 0
        self._models = {"protein": write_protein_model(folder), "DNA": write_dna_model(folder)}

    def call(self, case: Case) -> tuple[int, Path]:
        """Index a case's files; return the exit code and the folder."""
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        for name, content in case.files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        words = ["index.py", "--fasta", *case.patterns, "--ids", case.ids]
        words += ["--invalid-residues", case.asked, "--gaps", case.gaps]
        words += ["--suspicious", case.suspicious, "--model", str(self._models[case.molecule])]
        words += ["--output", "out/index.parquet", "--residues", "out/residues.bin"]
        with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [*words, "--log", "index.log"])
            return self._program.main(), folder

    def refuse(self, case: Case) -> str:
        """The message of a case that is refused, of which no file is left."""
        code, folder = self.call(case)
        assert code == 1, case
        assert not [path for path in (folder / "out").rglob("*") if path.is_file()]
        return (folder / "index.log").read_text().partition(" ERROR ")[2].rstrip("\n")


@pytest.fixture(scope="module")
def indexer(tmp_path_factory):
    """SIGTERM is handled as before it afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TESTS.parent / "workflow/scripts"))
        yield Indexer(tmp_path_factory.mktemp("fasta"), __import__("index"))
    signal.signal(signal.SIGTERM, before)


def test_malformed_fasta_is_refused_with_its_place(indexer, capsys):
    messages = {}
    for name, case in CASES.items():
        messages[name] = message = indexer.refuse(case)
        assert message.startswith(case.place) and message.isprintable(), name
        assert ("set `suspicious: allow`" in message) == case.allowed or name in BAD_FASTA, name
        assert capsys.readouterr().err.count("\n") == 1, name
    check_snapshot("fasta", messages)


@pytest.mark.parametrize("name", [name for name, case in ODD.items() if case.allowed])
def test_what_is_suspicious_is_read_where_that_is_allowed(name, indexer):
    code, _ = indexer.call(replace(ODD[name], suspicious="allow"))
    assert code == 0


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_programs_and_databases(name, indexer):
    layout = LAYOUTS[name]
    how = {"ids": layout.ids, "gaps": layout.gaps, "asked": layout.asked}
    code, folder = indexer.call(make_case(layout.content, molecule=layout.molecule, **how))
    assert code == 0
    index = folder / "out/index.parquet"
    names = [found for found, _ in read_ids_and_reasons(index)]
    lengths, _ = read_lengths_and_digests(index)
    found = list(zip(names, lengths.tolist(), strict=True))
    assert found == [(name, len(residues)) for name, residues in layout.expected]
    residues = "".join(residues.upper() for _, residues in layout.expected)
    assert (folder / "out/residues.bin").read_text() == residues


@pytest.mark.parametrize("kind", COMPRESS)
def test_layouts_are_read_compressed_in_parts(kind, tmp_path):
    """Of several streams, as parallel programs write them, with padding between."""
    plain, expected = LAYOUTS["UniProt"].content, LAYOUTS["UniProt"].expected
    padding = b"\0" * 8 if kind in ("gzip", "xz") else b""
    parts = (plain[:70], plain[70:71], b"", plain[71:])
    path = tmp_path / "a.fasta"
    path.write_bytes(b"".join(COMPRESS[kind].compress(part) + padding for part in parts))
    for size in (1, 7, 1 << 18):
        records = [r for part in read_batches(path, chunk_bytes=size) for r in part]
        assert [(r.sequence_id, r.residues.decode()) for r in records] == expected
