"""Malformed FASTA is refused with its place, and the layouts of programs are read as they mean."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bad_fasta import BAD_FASTA, Case, make_case
from odd_fasta import ODD_FASTA
from real_layouts import LAYOUTS
from snapshot import check_snapshot

from seqembed.fasta.compression import zstd
from seqembed.fasta.reader import read_batches
from seqembed.index.table import read_ids_and_reasons, read_lengths_and_digests

TESTS = Path(__file__).parents[1]
ODD = {f"{kind}: {name}": odd for kind, cases in ODD_FASTA.items() for name, odd in cases.items()}
CASES = BAD_FASTA | ODD
COMPRESS = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd.compress,
}


class Indexer:
    """Calls the program `index`, each time in a folder of its own."""

    def __init__(self, folder: Path, program: Any) -> None:
        self._folder, self._program, self._count = folder, program, 0
        dna = json.loads((TESTS / "golden/tokens/model.json").read_text())
        dna["tokenizer_file"] = str(TESTS / "data/dnabert_s/tokenizer.json")
        self._models = {"protein": TESTS / "golden/model.json", "DNA": folder / "dna.json"}
        self._models["DNA"].write_text(json.dumps(dna))

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
        assert code == 1
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


@pytest.fixture(scope="module")
def messages(indexer) -> dict[str, str]:
    return {name: indexer.refuse(case) for name, case in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_malformed_fasta_is_refused_with_its_place(name, messages):
    case, message = CASES[name], messages[name]
    assert message.startswith(case.place)
    assert case.phrase in message
    assert message.isprintable()
    if name in ODD:
        assert ("set `suspicious: allow`" in message) == case.allowed


def test_messages_whole(messages):
    check_snapshot("fasta", messages)


def test_a_message_is_one_line_of_stderr(indexer, capsys):
    indexer.call(make_case(b"", "holds no record"))
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", [name for name, case in ODD.items() if case.allowed])
def test_what_is_suspicious_is_read_where_that_is_allowed(name, indexer):
    code, _ = indexer.call(replace(ODD[name], suspicious="allow"))
    assert code == 0


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_programs_and_databases(name, indexer):
    layout = LAYOUTS[name]
    how = {"ids": layout.ids, "gaps": layout.gaps, "asked": layout.asked}
    code, folder = indexer.call(make_case(layout.content, "", molecule=layout.molecule, **how))
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
    parts = [COMPRESS[kind](part) + padding for part in (plain[:70], plain[70:71], b"", plain[71:])]
    path = tmp_path / "a.fasta"
    path.write_bytes(b"".join(parts))
    for size in (1, 7, 1 << 18):
        records = [r for part in read_batches(path, chunk_bytes=size) for r in part]
        assert [(r.sequence_id, r.residues.decode()) for r in records] == expected


def test_there_are_enough():
    assert len(BAD_FASTA) >= 60 and len(LAYOUTS) >= 20
    assert all(len(cases) >= 6 for cases in ODD_FASTA.values())
    # Two of one kind would show the same twice.
    assert len({(tuple(case.files.items()), case.patterns) for case in BAD_FASTA.values()}) == len(
        BAD_FASTA
    )
