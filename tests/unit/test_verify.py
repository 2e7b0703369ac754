"""verify.py: of an otherwise good and sealed file, the one thing that is wrong, and where."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from broken_files import flip
from described_models import write_protein_model
from indexing import index_proteins, make_check
from known_files import KNOWN_RECIPE, OTHER_VALUES, WIDTH, write_indices, write_known_shard

from seqembed.checkpoints.blocks import write_next_block
from seqembed.checkpoints.merge import merge
from seqembed.checkpoints.token_rows import ResidueSpool
from seqembed.errors import FileFormatError
from seqembed.index.parquet import read_metadata
from seqembed.models.prepared import PreparedModel, read_prepared
from seqembed.results.quarantine import write_quarantine
from seqembed.results.seal import seal
from seqembed.verify.inputs import check_fasta
from seqembed.verify.rows import AGAIN
from seqembed.verify.verify import verify

GOLDEN = Path(__file__).parents[1] / "golden"
LOGGER = logging.getLogger("test_verify")
# s2 and s5 are of one sequence; the index excludes s1 and s6.
RESIDUES = ["MKV", "MJ", "WE", "ACDEFGH", "L", "we*", "JJ"]
SEQUENCES = {f"s{number}": residues for number, residues in enumerate(RESIDUES)}
RECIPE = replace(KNOWN_RECIPE, long_sequences="window", per_residue=True)
# No test but those of weights writes it.
MODEL = "resources/models/esm.json"
SHARED = {"model": "esm", "weights_sha256": "ef" * 32, **RECIPE.fields()}
SHARED |= {"recipe_fingerprint": RECIPE.fingerprint}


class Results:
    """results/demo: an index, two shards and embeddings.h5, all good."""

    def __init__(self, root: Path) -> None:
        self.root, self.fasta, self.folder = root, root / "a.fasta", root / "results/demo"
        self.merged = self.folder / "embeddings.h5"
        self.table, self.index = (self.folder / n for n in ("quarantine.tsv", "index.parquet"))

    def make(
        self, quarantined: Sequence[str] = (), sequences: Mapping[str, str] = SEQUENCES
    ) -> Results:
        """Write all files; quarantined: sequences that could not be embedded."""
        self.root.mkdir(exist_ok=True)
        write_indices(self.folder, sequences, shards=2, fasta=self.fasta)
        failed = dict.fromkeys(quarantined, "is\ttoo long")
        how = SHARED | {"failed": failed, "tokens": True}
        shards = [write_known_shard(self.folder, rank, **how) for rank in range(2)]
        summary = merge(self.index, shards, self.merged, LOGGER)
        write_quarantine(self.index, self.table, summary.quarantined)
        return self

    def shard(self, rank: int) -> Path:
        return self.folder / f"shards/shard_{rank}.h5"

    def shard_index(self, rank: int) -> Path:
        return self.folder / f"index/shard_{rank}.parquet"


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Results:
    return Results(tmp_path_factory.mktemp("good")).make()


@pytest.fixture
def results(good, tmp_path) -> Results:
    shutil.copytree(good.root, tmp_path / "copy")
    return Results(tmp_path / "copy")


def tamper(path: Path, change: Callable[[h5py.File], object]) -> None:
    """Change a file of its own, whatever links to it, and seal it again."""
    shutil.copy(path, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)
    with h5py.File(path, "r+") as file:
        change(file)
    seal(path)


def put(name: str, place: Any, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[name][place] = value

    return change


def attributes(**values: Any) -> Callable[[h5py.File], None]:
    """Give attributes other values, None for none."""

    def change(file: h5py.File) -> None:
        for name, value in values.items():
            file.attrs.pop(name, None)
            if value is not None:
                file.attrs[name] = value

    return change


def refused(path: Path, *arguments: Any, **options: Any) -> str:
    """What is wrong, without the file's name."""
    with pytest.raises(FileFormatError) as caught:
        verify(path, *arguments, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_what_is_good_is_counted_and_nothing_is_written(good):
    before = {path: path.stat().st_mtime_ns for path in good.root.rglob("*")}
    counts = {good.merged: 5, good.shard(0): 1, good.shard(1): 3}
    for path, count in (counts | {good.index: 7, good.shard_index(1): 3}).items():
        found = verify(path, fail_on_quarantine=True)
        assert found.startswith(f"{path}: {count} sequences, all is well")
        assert found.endswith(f"not compared: {MODEL}") == (path == good.merged)
    assert {path: path.stat().st_mtime_ns for path in good.root.rglob("*")} == before


def test_files_of_the_first_versions_are_good():
    names = ["embeddings.h5", "tokens/embeddings.h5", "index.parquet", "tokens/index.parquet"]
    names += ["batch_00000.safetensors", "tokens/batch_00000.safetensors", "shard_1.parquet"]
    for name in names:
        assert "all is well" in verify(GOLDEN / name)
    assert "all is well" in verify(GOLDEN / "shard_1.h5", GOLDEN / "shard_1.parquet")


@pytest.mark.parametrize(
    ("change", "place", "problem"),
    [
        (put("embeddings", (2, 3), np.nan), "embeddings, row 2 (of 's3')", "not finite"),
        (put("embeddings", (4, 0), -np.inf), "embeddings, row 4 (of 's5')", "not finite"),
        (put("residues/embeddings", (5, 1), np.inf), "residues/embeddings, row 5 (", "not finite"),
        (put("flags", 1, 16), "flags, row 1 (of 's2')", "unknown bits"),
        (put("lengths", 0, 0), "lengths, row 0 (of 's0')", "is below 1"),
        (put("sequence_ids", 3, "s0"), "sequence_ids, row 3 (of 's0')", "row 0 has this id"),
        (put("sequence_ids", 3, ""), "sequence_ids, row 3 (of '')", "valid id"),
        (put("sequence_ids", 3, b"\xff"), "sequence_ids, row 3 (of '\ufffd')", "valid id"),
        (put("embeddings", (4, 2), 7), "digests, row 4 (of 's5')", "row 1 is of the same"),
        (put("lengths", 4, 3), "digests, row 4 (of 's5')", "row 1 is of the same"),
        (attributes(kind="other"), "attribute kind", "'other'"),
        (attributes(layer=None), "attribute layer", "missing"),
        (attributes(index_fingerprint=None), "attribute index_fingerprint", "missing"),
        (attributes(pooling="sum"), "attributes", "pooling must be one of"),
        (attributes(per_residue=None), "attribute recipe_fingerprint", RECIPE.fingerprint),
        (attributes(recipe_fingerprint="cd"), "attribute recipe_fingerprint is 'cd'", "recipe"),
        # Against the index
        (attributes(index_fingerprint="cd"), "was made from other ids", "{index}; run again"),
        (put("sequence_ids", 3, "x"), "sequence_ids, row 3", "'x', where {index} has 's4'"),
        (put("digests", (0, 5), 0), "digests, row 0 (of 's0')", "differs from {index}"),
        (put("lengths", 2, 9), "lengths, row 2 (of 's3')", "differs from {index}"),
    ],
)
def test_what_is_wrong_with_a_sealed_file_is_named(change, place, problem, results):
    tamper(results.merged, change)
    found = refused(results.merged)
    assert found.startswith(place) and problem.format(index=results.index) in found
    assert found.endswith(f"; {AGAIN}") or place == "was made from other ids"


def test_a_fingerprint_is_of_each_field_of_the_recipe(results):
    """So that a later field cannot be left out of what is looked at."""
    original = results.merged.read_bytes()
    for name, (value, *_) in (OTHER_VALUES | {"per_residue": [False]}).items():
        tamper(results.merged, attributes(**{name: value}))
        assert refused(results.merged).startswith("attribute recipe_fingerprint is")
        results.merged.write_bytes(original)


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"per_residue": False}, "has token rows"), ({"storage": "float16"}, "attribute storage is")],
)
def test_token_rows_and_storage_are_those_of_the_recipe(change, problem, results):
    fingerprint = replace(RECIPE, **change).fingerprint
    tamper(results.merged, attributes(**change, recipe_fingerprint=fingerprint))
    assert refused(results.merged).startswith(problem)


def test_a_flipped_bit_and_a_cut_file_are_damaged(results):
    flip(results.merged)
    content = results.merged.read_bytes()
    for damaged in (content, content[:-1], b"", b"\0" * 4096):
        results.merged.write_bytes(damaged)
        assert refused(results.merged).startswith(("damaged", "is not a sealed"))


def test_a_row_more_or_less_than_the_index_has_is_named(results, tmp_path):
    fewer = {name: residues for name, residues in SEQUENCES.items() if name != "s5"}
    other = Results(tmp_path / "other").make(sequences=fewer)
    for held, index, expected in (
        (other, results.index, f"row after the last: nothing, where {results.index} has 's5'"),
        (results, other.index, f"row 4: 's5', where {other.index} has nothing"),
    ):
        fingerprint = read_metadata(index, "index")["fingerprint"]
        tamper(held.merged, attributes(index_fingerprint=fingerprint))
        assert refused(held.merged, index).startswith(f"sequence_ids, {expected}")


# quarantine.tsv

J = "residue 'J' at {} is unknown to the model ({} such)"
LINES = ["sequence_id\treason", f"s1\t{J.format(2, 1)}", f"s6\t{J.format(1, 2)}"]


@pytest.mark.parametrize(
    ("lines", "place"),
    [
        (LINES[:2], f"after the last: nothing, where {{}} has {LINES[2]!r}"),
        ([*LINES, "s0\tno"], "4: 's0\\tno', where {} has nothing"),
        ([LINES[0], LINES[2], LINES[1]], f"2: {LINES[2]!r}, where {{}} has {LINES[1]!r}"),
        ([LINES[0], "s1\tother", LINES[2]], f"2: 's1\\tother', where {{}} has {LINES[1]!r}"),
        (LINES[1:], "1: is not the header"),
        ([], "1: is not the header"),
        (None, f"after the last: nothing, where {{}} has {LINES[1]!r}"),
    ],
)
def test_a_wrong_line_of_the_quarantine_is_named(lines, place, results):
    assert results.table.read_text() == "".join(f"{line}\n" for line in LINES)
    results.table.unlink()
    if lines is not None:
        results.table.write_text("".join(f"{line}\n" for line in lines))
    expected = place.format(results.index)
    assert refused(results.merged).startswith(f"{results.table}, line {expected}")


def test_sequences_that_could_not_be_embedded_are_named(tmp_path):
    results = Results(tmp_path).make(["WE", "L"])
    reasons = ", ".join(rf"'{name}' (is\ttoo long)" for name in ("s2", "s4", "s5"))
    told, found = f"3 sequences could not be embedded: {reasons}", verify(results.merged)
    assert found.startswith(f"{results.merged}: 2 sequences, all is well")
    assert found.endswith(f"; besides, {told}")
    message = refused(results.merged, fail_on_quarantine=True)
    assert message.startswith(f"{told}; {results.table} lists all")
    assert f"remove {results.merged} and run again" in message
    assert "1 sequences, all is well; besides, 2 sequences could not be embedded: " in verify(
        results.shard(1)
    )
    results.index.rename(tmp_path / "index.parquet")
    assert "2 sequences, all is well; besides, 2 sequences could not be embedded: " in verify(
        results.merged
    )
    assert verify(results.merged, tmp_path / "index.parquet") == found


def test_a_quarantine_of_other_sequences_is_named(tmp_path):
    results = Results(tmp_path).make(["L"])

    def quarantine_more(file: h5py.File) -> None:
        for name, value in (("digests", np.full((1, 16), 9, np.uint8)), ("reasons", ["more"])):
            held = file.pop(f"quarantine/{name}")
            data = np.append(held[:], value, axis=0)
            file.create_dataset(f"quarantine/{name}", data=data, dtype=held.dtype)

    tamper(results.merged, quarantine_more)
    expected = f"quarantine/digests: 1 digest not found in {results.index}"
    assert refused(results.merged).startswith(expected)
    tamper(results.merged, lambda file: put("quarantine/digests", 0, file["digests"][1])(file))
    expected = "digests, row 1 (of 's2'): quarantine/digests has this sequence"
    assert refused(results.merged).startswith(expected)


# Shards


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (attributes(shard_fingerprint=None), "attribute shard_fingerprint is missing"),
        (attributes(shard_fingerprint="cd"), "attribute shard_fingerprint is 'cd', not '"),
        (attributes(rank=0), "attribute rank is 0, not 1 as in {index}"),
        (attributes(world_size=3), "attribute world_size is 3, not 2 as in {index}"),
        (put("digests", (1, 0), 0), "digests, row 1 (of 's2'): differs from {index}"),
        (put("lengths", 1, 9), "lengths, row 1 (of 's2'): differs from {index}"),
    ],
)
def test_what_is_wrong_with_a_shard_is_named(change, place, results):
    tamper(results.shard(1), change)
    index = results.shard_index(1)
    assert refused(results.shard(1), index).startswith(place.format(index=index))


def test_a_shard_finds_its_index_and_has_each_sequence_once(results):
    tamper(results.shard(1), put("lengths", 1, 9))
    index = results.folder / "shards/../index/shard_1.parquet"
    assert refused(results.shard(1)).startswith(f"lengths, row 1 (of 's2'): differs from {index}")
    results.shard_index(1).unlink()
    assert "all is well" in verify(results.shard(1))

    def repeat(file: h5py.File) -> None:
        for name in ("digests", "embeddings", "lengths"):
            file[name][1] = file[name][0]

    tamper(results.shard(1), repeat)
    assert refused(results.shard(1)).startswith("digests, row 1 (of 's2'): row 0 is of the same")


def test_a_shard_without_a_sequence_of_its_index_is_named(tmp_path):
    shorter = Results(tmp_path).make(["L"])
    tamper(shorter.shard(1), lambda file: file.pop("quarantine"))
    found = refused(shorter.shard(1), shorter.shard_index(1))
    assert found.startswith(f"has 2 rows, but {shorter.shard_index(1)} has 3")


# Blocks and indices


def write_block(folder: Path, rows: np.ndarray, tokens: np.ndarray) -> Path:
    """Write a block of n sequences, each with one token; (n, D) rows and token rows."""
    spool, count = ResidueSpool(folder), len(rows)
    for number in range(count):
        spool.add(number, tokens[number : number + 1])
    digests = np.arange(16 * count, dtype=np.uint8).reshape(count, 16)
    how = {"batches": 1, "residues": spool.seal(range(count))}
    return write_next_block(folder, digests, rows, np.zeros(count, np.uint8), **how)


@pytest.mark.parametrize("where", ["rows", "token rows"])
def test_a_block_with_a_value_that_is_not_finite_is_named(where, tmp_path):
    rows, tokens = np.ones((2, 3, WIDTH), np.float32)
    (rows if where == "rows" else tokens)[2, 1] = np.nan
    block = write_block(tmp_path, rows, tokens)
    assert refused(block).startswith(f"{where}, row 2: has a value that is not finite")


def test_a_damaged_block_is_named(tmp_path):
    block = write_block(tmp_path, *np.ones((2, 1, WIDTH), np.float32))
    assert verify(block) == f"{block}: 1 sequences, all is well"
    flip(block)
    assert refused(block).startswith("damaged checkpoint block")
    block.unlink()
    assert "No such file" in refused(block)


def replace_first(path: Path, name: str, value: Any) -> None:
    """Put another value in the first row of a Parquet file; its metadata stay as they were."""
    table, metadata = pq.read_table(path), read_metadata(path, "index", "shard")
    place = table.schema.names.index(name)
    column = pa.array([value, *table[name].to_pylist()[1:]], table.schema.field(name).type)
    changed = table.set_column(place, table.schema.field(name), column)
    pq.write_table(changed.replace_schema_metadata(metadata), path)


def test_an_index_with_another_fingerprint_and_a_shards_with_other_residues_are_named(results):
    replace_first(results.index, "sequence_id", "x")
    assert refused(results.index).startswith("damaged (the fingerprint is wrong); remove it")
    # The index is named, not the file.
    assert refused(results.merged).startswith(
        f"{results.index}: damaged (the fingerprint is wrong)"
    )
    replace_first(results.shard_index(0), "residues", b"W")
    assert refused(results.shard_index(0)).startswith("residues of 's3'")


# The program


@pytest.fixture
def run(monkeypatch, capsys, restored_process) -> Callable[..., tuple[int, list[str]]]:
    """Call the program; returns its exit code and the lines that it said."""
    import verify as program

    def call(*words: object) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["verify.py", *map(str, words)])
        code = program.main()
        said = capsys.readouterr()
        assert said.out == ""
        return code, said.err.splitlines()

    return call


def test_the_program_says_a_line_a_file_and_looks_at_all(run, results):
    tamper(results.shard(0), put("flags", 0, 16))
    problems = {
        results.merged: "5 sequences, all is well",
        results.shard(0): "flags, row 0 (of 's3')",
        results.folder / "none.h5": "cannot be read",
        results.fasta: "its name does not end in .h5, .parquet or .safetensors",
        results.shard(1): "3 sequences, all is well",
    }
    code, lines = run(*problems)
    assert (code, len(lines)) == (1, 6)
    for line, (path, problem) in zip(lines[:-1], problems.items(), strict=True):
        assert line.startswith(f"verify: {path}: {problem}")
    wrong = ", ".join(map(str, [*problems][1:4]))
    assert lines[5] == f"verify: 3 of 5 files are wrong: {wrong}"


def test_of_one_file_there_is_one_line(run, tmp_path):
    results = Results(tmp_path).make(["L"])
    code, lines = run(results.merged, "--index", results.index)
    assert (code, len(lines)) == (0, 1)
    assert lines[0].startswith(f"verify: {results.merged}: 4 sequences, all is well")
    code, lines = run(results.merged, "--on-quarantine", "fail")
    assert (code, len(lines)) == (1, 1)
    assert lines[0].startswith(
        f"verify: {results.merged}: 1 sequence could not be embedded: 's4' (is"
    )


# What a result was made from


@pytest.fixture
def indexed(results, monkeypatch) -> Results:
    """A copy whose index is of its own FASTA file, with the working folder beside it."""
    index_proteins([results.fasta], results.index, check=make_check("skip"))
    monkeypatch.chdir(results.root)
    return results


def write_description(root: Path, weights: bytes, **changes: str) -> PreparedModel:
    """Write weights of these bytes and their description."""
    path, sha256 = root / "weights.safetensors", hashlib.sha256(weights).hexdigest()
    path.write_bytes(weights)
    (root / MODEL).parent.mkdir(parents=True, exist_ok=True)
    write_protein_model((root / MODEL).parent, weights=str(path), sha256=sha256, **changes)
    return read_prepared(root / MODEL)


def test_input_that_is_missing_is_named(indexed):
    indexed.fasta.unlink()
    found = verify(indexed.merged)
    assert "all is well" in found and found.endswith(f"not compared: {indexed.fasta}, {MODEL}")


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        (">s0\nMKV", ">s0\nMKL", ", line 1: record 's0'"),
        (">s2\n", ">s9\n", ", line 5: record 's9'"),
        (">s6\nJJ\n", "", ": record 's6' is missing"),
        (">s6\nJJ\n", ">s6\nJJ\n>s7\nMKV\n", ", line 15: record 's7'"),
    ],
)
def test_a_changed_fasta_file_is_named(old, new, place, indexed):
    text, state = indexed.fasta.read_text(), indexed.fasta.stat()
    assert text.count(old) == 1
    indexed.fasta.write_text(text.replace(old, new))
    # Not by its time: a file that was put back has an old one.
    os.utime(indexed.fasta, ns=(state.st_atime_ns, state.st_mtime_ns))
    found = refused(indexed.merged)
    assert found.startswith(f"{indexed.fasta}{place}")
    assert f"--forcerun {indexed.index}" in found


def test_input_is_read_as_it_was_indexed_also_after_a_missing_file(tmp_path):
    first, second, index = (tmp_path / name for name in ("a.faa", "b.faa", "index.parquet"))
    first.write_text(">P0\nMKV\n")
    second.write_text(">sp|P1|ONE\nMK-V\n>P2 x\nmk..v\n")
    index_proteins([first, second], index, "accession", make_check(gaps="remove"))
    assert check_fasta(index) == []
    first.unlink()
    assert check_fasta(index) == [str(first)]


def test_weights_are_compared_and_what_they_were_converted_from(indexed):
    original = indexed.root / "esm2.pt"
    original.write_bytes(b"original")
    converted = {"original": str(original)}
    converted["original_sha256"] = hashlib.sha256(b"original").hexdigest()
    model = write_description(indexed.root, b"weights", **converted)
    tamper(indexed.merged, attributes(weights_sha256=model.sha256))
    assert verify(indexed.merged).endswith("5 sequences, all is well")
    for path in (original, Path(model.weights)):
        kept = path.read_bytes()
        path.write_bytes(b"another")
        assert refused(indexed.merged).startswith(f"{path}: is not the file that {MODEL}")
        path.unlink()
        assert verify(indexed.merged).endswith(f"not compared: {path}")
        path.write_bytes(kept)
    write_description(indexed.root, b"others")
    assert refused(indexed.merged).startswith(f"was made with other weights than {MODEL}")
