"""verify.py: of an otherwise good and sealed file, the one thing that is wrong, and where."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqembed.checkpoints.blocks import write_next_block
from seqembed.checkpoints.token_rows import ResidueSpool
from seqembed.checks.residues import ResidueCheck
from seqembed.errors import FileFormatError
from seqembed.index.parquet import read_metadata
from seqembed.index.split import split_index
from seqembed.index.table import read_shard_index, write_index
from seqembed.models.encoders.tokenization import ESM2_LETTERS
from seqembed.models.families import Esm2Architecture
from seqembed.models.prepared import PreparedModel, read_prepared, write_prepared
from seqembed.results.merge import merge
from seqembed.results.quarantine import write_quarantine
from seqembed.results.rows import TokenRows
from seqembed.results.seal import seal
from seqembed.results.writer import Slab, write_embeddings
from seqembed.settings.recipe import Recipe
from seqembed.verify.inputs import check_fasta
from seqembed.verify.rows import AGAIN
from seqembed.verify.verify import verify

GOLDEN = Path(__file__).parents[1] / "golden"
LOGGER = logging.getLogger("test_verify")
WIDTH = 4
# s2 and s5 are of one sequence; the index excludes s1 and s6.
SEQUENCES = ["MKV", "MJ", "WE", "ACDEFGH", "L", "we*", "JJ"]
J = "residue 'J' at {} is unknown to the model ({} such)"
RECIPE = Recipe(
    weights="ab" * 32,
    tokenizer="esm2",
    layer=6,
    pooling="mean",
    precision="fp32",
    storage="float32",
    long_sequences="window",
    max_length=1022,
    numerics_version=1,
    per_residue=True,
)
# What nobody wrote here.
ABSENT = "not there, and so not compared: resources/models/toy.json"
SHARED = {"kind": "shard", "model": "toy", "weights_sha256": "ef" * 32, **RECIPE.fields()}
SHARED |= {"recipe_fingerprint": RECIPE.fingerprint}


class Results:
    """results/demo: an index, two shards and embeddings.h5, all good."""

    def __init__(self, root: Path) -> None:
        self.root, self.fasta, self.folder = root, root / "a.fasta", root / "results/demo"
        self.merged = self.folder / "embeddings.h5"
        self.table, self.index = (self.folder / n for n in ("quarantine.tsv", "index.parquet"))

    def make(self, quarantined: Sequence[str] = ()) -> Results:
        """Write all files; quarantined: ids of sequences that could not be embedded."""
        self.fasta.write_text("".join(f">s{n}\n{s}\n" for n, s in enumerate(SEQUENCES)))
        check = ResidueCheck(ESM2_LETTERS, "protein", "skip", gaps="error", suspicious="error")
        write_index([self.fasta], self.index, check=check)
        split_index(self.index, [self.shard_index(rank) for rank in range(2)])
        for rank in range(2):
            self._write_shard(rank, quarantined)
        shards = [self.shard(rank) for rank in range(2)]
        summary = merge(self.index, shards, self.merged, LOGGER)
        write_quarantine(self.index, self.table, summary.quarantined)
        return self

    def shard(self, rank: int) -> Path:
        return self.folder / f"shards/shard_{rank}.h5"

    def shard_index(self, rank: int) -> Path:
        return self.folder / f"index/shard_{rank}.parquet"

    def _write_shard(self, rank: int, quarantined: Sequence[str]) -> None:
        part = read_shard_index(self.shard_index(rank))
        names = pq.read_table(self.shard_index(rank))["sequence_id"].to_pylist()
        order = [n for n in np.argsort(part.rows) if names[n] not in quarantined]
        lengths, digests = part.lengths[order], part.digests[order]
        rows = digests[:, :WIDTH].astype(np.float32)
        slab = Slab(
            sequence_ids=[names[n] for n in order],
            lengths=lengths,
            digests=digests,
            flags=np.zeros(len(order), np.uint8),
            embeddings=rows,
        )
        own = {"rank": rank, "world_size": 2, "shard_fingerprint": part.fingerprint}
        left_out = [part.digests[n].tobytes() for n in np.argsort(part.rows) if n not in order]
        write_embeddings(
            self.shard(rank),
            count=len(order),
            width=WIDTH,
            storage="float32",
            attributes=SHARED | own,
            slabs=[slab],
            residues=TokenRows(
                offsets=np.append(0, lengths.cumsum()), parts=[rows.repeat(lengths, axis=0)]
            ),
            quarantine=dict.fromkeys(left_out, "is\ttoo long"),
        )


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Results:
    return Results(tmp_path_factory.mktemp("good")).make()


@pytest.fixture
def results(good, tmp_path) -> Results:
    shutil.copytree(good.root, tmp_path / "copy")
    return Results(tmp_path / "copy")


def tamper(path: Path, change: Callable[[h5py.File], None]) -> None:
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


def attribute(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if value is None:
            del file.attrs[name]
        else:
            file.attrs[name] = value

    return change


def refused(path: Path, *arguments: Any, **options: Any) -> str:
    """What is wrong, without the file's name."""
    with pytest.raises(FileFormatError) as caught:
        verify(path, *arguments, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_what_is_good_is_counted(good):
    assert verify(good.merged) == f"{good.merged}: 5 sequences, all is well; {ABSENT}"
    for path, count in {
        good.shard(0): 1,
        good.shard(1): 3,
        good.index: 7,
        good.shard_index(1): 3,
    }.items():
        assert verify(path) == f"{path}: {count} sequences, all is well"


def test_files_of_the_first_versions_are_good():
    names = ["embeddings.h5", "tokens/embeddings.h5", "index.parquet", "tokens/index.parquet"]
    names += ["batch_00000.safetensors", "tokens/batch_00000.safetensors", "shard_1.parquet"]
    for name in names:
        assert "all is well" in verify(GOLDEN / name)
    assert "all is well" in verify(GOLDEN / "shard_1.h5", GOLDEN / "shard_1.parquet")


def test_nothing_is_written(good):
    def content() -> dict[Path, int]:
        paths = good.root.rglob("*")
        return {path: path.stat().st_mtime_ns for path in paths}

    before = content()
    verify(good.merged)
    verify(good.shard(0))
    assert content() == before


OTHER = "is {!r}, but its recipe and rows make it {!r}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("embeddings", (2, 3), np.nan), "embeddings, row 2 (of 's3'): has a value that is not"),
        (put("embeddings", (4, 0), -np.inf), "embeddings, row 4 (of 's5'): has a value that is no"),
        (
            put("residues/embeddings", (5, 1), np.inf),
            "residues/embeddings, row 5 (of 's3'): has a value that is not finite",
        ),
        (put("flags", 1, 16), "flags, row 1 (of 's2'): has bits that mean nothing"),
        (put("lengths", 0, 0), "lengths, row 0 (of 's0'): is no length of a sequence"),
        (put("sequence_ids", 3, "s0"), "sequence_ids, row 3 (of 's0'): row 0 has this id, too"),
        (put("sequence_ids", 3, ""), "sequence_ids, row 3 (of ''): is no id"),
        (put("sequence_ids", 3, b"\xff"), "sequence_ids, row 3 (of '\ufffd'): is no id"),
        (
            put("embeddings", (4, 2), 7),
            "digests, row 4 (of 's5'): row 1 is of the same sequence, with another embedding or",
        ),
        (put("lengths", 4, 3), "digests, row 4 (of 's5'): row 1 is of the same sequence, with"),
        (attribute("kind", "other"), "attribute kind is 'other'"),
        (attribute("layer", None), "attribute layer is missing"),
        (attribute("index_fingerprint", None), "attribute index_fingerprint is missing"),
        (attribute("pooling", "sum"), "attributes: pooling must be one of mean, cls, max, not"),
        (attribute("storage", "float16"), "attribute recipe_fingerprint is"),
        (attribute("per_residue", None), "attribute recipe_fingerprint is"),
        (
            attribute("recipe_fingerprint", "cd" * 32),
            f"attribute recipe_fingerprint {OTHER.format('cd' * 32, RECIPE.fingerprint)}",
        ),
        # Against the index
        (
            attribute("index_fingerprint", "cd" * 32),
            "is of other ids or sequences than {index}; run again, so that it is merged anew",
        ),
        (
            put("sequence_ids", 3, "x"),
            "sequence_ids, row 3: 'x', where {index} has 's4'",
        ),
        (put("digests", (0, 5), 0), "digests, row 0 (of 's0'): is not that of {index}"),
        (put("lengths", 2, 9), "lengths, row 2 (of 's3'): is not that of {index}"),
    ],
)
def test_what_is_wrong_with_a_sealed_file_is_named(change, message, results):
    tamper(results.merged, change)
    found = refused(results.merged)
    assert found.startswith(message.format(index=results.index))
    assert found.endswith(f"; {AGAIN}") or "run again" in message


def test_a_fingerprint_is_of_each_field_of_the_recipe(results):
    """So that a later field cannot be left out of what is looked at."""
    original = results.merged.read_bytes()
    others = {"layer": 5, "max_length": 7, "numerics_version": 2, "precision": "fp16"}
    others |= {"pooling": "max", "long_sequences": "full", "storage": "float16"}
    others |= {"per_residue": False}
    for field in fields(Recipe):
        tamper(results.merged, attribute(field.name, others.get(field.name, "other")))
        assert refused(results.merged).startswith("attribute recipe_fingerprint is")
        results.merged.write_bytes(original)


def test_token_rows_and_storage_are_those_of_the_recipe(results):
    plain = {"per_residue": False}
    fingerprint = Recipe(**vars(RECIPE) | plain).fingerprint

    def change(file: h5py.File) -> None:
        file.attrs.update({"per_residue": False, "recipe_fingerprint": fingerprint})

    tamper(results.merged, change)
    assert refused(results.merged).startswith("has token rows that its recipe does not want")
    fingerprint = Recipe(**vars(RECIPE) | {"storage": "float16"}).fingerprint

    def change_storage(file: h5py.File) -> None:
        own = {"storage": "float16", "per_residue": True, "recipe_fingerprint": fingerprint}
        file.attrs.update(own)

    tamper(results.merged, change_storage)
    assert refused(results.merged).startswith("attribute storage is 'float16', but its recipe and")


def test_a_flipped_bit_and_a_cut_file_are_damaged(results):
    content = bytearray(results.merged.read_bytes())
    content[-1] ^= 1
    for damaged in (content, content[:-1], b"", b"\0" * 4096):
        results.merged.write_bytes(damaged)
        found = refused(results.merged)
        assert found.startswith(("damaged since it was written", "is not a sealed seqembed file"))


def test_a_row_more_or_less_than_the_index_has_is_named(results):
    def cut(file: h5py.File, count: int) -> None:
        for name in ("embeddings", "sequence_ids", "lengths", "digests", "flags"):
            data = file[name][:][[*range(4), 4, 4][:count]]
            if name == "sequence_ids" and count > 5:
                data[-1] = b"more"
            del file[name]
            file[name] = data
        offsets = file["residues/offsets"][:]
        rows = file["residues/embeddings"][:]
        del file["residues"]
        ends = np.append(offsets, offsets[-1])[: count + 1]
        file["residues/offsets"], file["residues/embeddings"] = ends, rows[: ends[-1]]

    original = results.merged.read_bytes()
    tamper(results.merged, lambda file: cut(file, 4))
    found = refused(results.merged)
    assert found.startswith(f"sequence_ids, row after the last: nothing, where {results.index} has")
    results.merged.write_bytes(original)
    tamper(results.merged, lambda file: cut(file, 6))
    found = refused(results.merged)
    assert found.startswith(f"sequence_ids, row 5: 'more', where {results.index} has nothing")


# quarantine.tsv

LINES = ["sequence_id\treason", f"s1\t{J.format(2, 1)}", f"s6\t{J.format(1, 2)}"]


@pytest.mark.parametrize(
    ("lines", "place"),
    [
        (LINES[:2], f"line after the last: nothing, where {{}} has {LINES[2]!r}"),
        ([*LINES, "s0\tno"], "line 4: 's0\\tno', where {} has nothing"),
        ([LINES[0], LINES[2], LINES[1]], f"line 2: {LINES[2]!r}, where {{}} has {LINES[1]!r}"),
        ([LINES[0], "s1\tother", LINES[2]], f"line 2: 's1\\tother', where {{}} has {LINES[1]!r}"),
        (LINES[1:], "line 1: is not its header"),
        ([], "line 1: is not its header"),
        (None, f"line after the last: nothing, where {{}} has {LINES[1]!r}"),
    ],
)
def test_a_wrong_line_of_the_quarantine_is_named(lines, place, results):
    assert results.table.read_text() == "".join(f"{line}\n" for line in LINES)
    results.table.unlink()
    if lines is not None:
        results.table.write_text("".join(f"{line}\n" for line in lines))
    expected = place.format(results.index)
    assert refused(results.merged) == f"{results.table}, {expected}; {AGAIN}"


def test_sequences_that_could_not_be_embedded_are_told(tmp_path):
    results = Results(tmp_path).make(["s2", "s4"])
    said = verify(results.merged)
    reasons = ", ".join(rf"'{name}' (is\ttoo long)" for name in ("s2", "s4", "s5"))
    told = f"3 more could not be embedded: {reasons}"
    assert said == f"{results.merged}: 2 sequences, all is well; {ABSENT}; {told}"
    assert refused(results.merged, fail_on_quarantine=True) == (
        f"{told}; {results.table} names all: take them out of the FASTA files, or set "
        f"`execution: {{on_quarantine: warn}}`, or remove {results.merged} and "
        f"{results.merged.with_name('shards')} to have them tried again"
    )
    shard = results.shard(1)
    assert f"{shard}: 1 sequences, all is well; 2 more could not be embedded: " in verify(shard)
    results.index.rename(tmp_path / "index.parquet")
    assert "2 sequences, all is well; 2 more could not be embedded: " in verify(results.merged)
    assert verify(results.merged, tmp_path / "index.parquet") == said


def test_what_the_index_excludes_is_no_failure(good):
    assert "all is well" in verify(good.merged, fail_on_quarantine=True)


def test_a_quarantine_of_other_sequences_is_named(tmp_path):
    results = Results(tmp_path).make(["s4"])
    original = results.merged.read_bytes()

    def quarantine_a_row(file: h5py.File) -> None:
        file["quarantine/digests"][0] = file["digests"][1]

    tamper(results.merged, quarantine_a_row)
    expected = "digests, row 1 (of 's2'): quarantine/digests has this sequence, too"
    assert refused(results.merged).startswith(expected)
    results.merged.write_bytes(original)

    def quarantine_more(file: h5py.File) -> None:
        for name, value in (("digests", np.full((1, 16), 9, np.uint8)), ("reasons", ["more"])):
            data = np.append(file[f"quarantine/{name}"][:], value, axis=0)
            dtype = file[f"quarantine/{name}"].dtype
            del file[f"quarantine/{name}"]
            file.create_dataset(f"quarantine/{name}", data=data, dtype=dtype)

    tamper(results.merged, quarantine_more)
    expected = f"quarantine/digests: 1 are of no sequence of {results.index}"
    assert refused(results.merged).startswith(expected)


# Shards


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (attribute("shard_fingerprint", None), "attribute shard_fingerprint is missing"),
        (
            attribute("shard_fingerprint", "cd" * 32),
            f"attribute shard_fingerprint is {'cd' * 32!r}, but {{index}} makes it",
        ),
        (attribute("rank", 0), "attribute rank is 0, but {index} makes it 1"),
        (attribute("world_size", 3), "attribute world_size is 3, but {index} makes it 2"),
        (put("digests", (1, 0), 0), "digests, row 1 (of 's2'): is not that of {index}"),
        (put("lengths", 1, 9), "lengths, row 1 (of 's2'): is not that of {index}"),
    ],
)
def test_what_is_wrong_with_a_shard_is_named(change, message, results):
    tamper(results.shard(1), change)
    index = results.shard_index(1)
    assert refused(results.shard(1), index).startswith(message.format(index=index))


def test_a_shard_finds_its_index_and_has_each_sequence_once(results):
    tamper(results.shard(1), put("lengths", 1, 9))
    index = results.folder / "shards/../index/shard_1.parquet"
    assert refused(results.shard(1)).startswith(f"lengths, row 1 (of 's2'): is not that of {index}")
    results.shard_index(1).unlink()
    assert "all is well" in verify(results.shard(1))

    def repeat(file: h5py.File) -> None:
        file["digests"][1] = file["digests"][0]

    tamper(results.shard(1), repeat)
    assert refused(results.shard(1)).startswith("digests, row 1 (of 's2'): row 0 is of the same")


def test_a_shard_without_a_sequence_of_its_index_is_named(results):
    shutil.copy(results.shard_index(1), results.folder / "kept.parquet")
    (results.folder / "other").mkdir()
    shorter = Results(results.folder / "other").make(["s4"])

    def forget(file: h5py.File) -> None:
        del file["quarantine"]

    tamper(shorter.shard(1), forget)
    kept = results.folder / "kept.parquet"
    assert refused(shorter.shard(1), kept).startswith(f"has 2 rows, but {kept} makes it 3")


# Blocks and indices


@pytest.mark.parametrize("where", ["rows", "token rows"])
def test_a_block_with_a_value_that_is_not_finite_is_named(where, tmp_path):
    rows = np.ones((3, WIDTH), np.float32)
    tokens = [rows[:1].copy() for _ in range(3)]
    (rows if where == "rows" else tokens)[2][..., 1] = np.nan
    spool = ResidueSpool(tmp_path)
    for number, part in enumerate(tokens):
        spool.add(number, part)
    digests, flags = np.arange(48, dtype=np.uint8).reshape(3, 16), np.zeros(3, np.uint8)
    sealed = spool.seal(range(3))
    block = write_next_block(tmp_path, digests, rows, flags, batches=1, residues=sealed)
    assert refused(block).startswith(f"{where}, row 2: has a value that is not finite; remove it")


def test_a_damaged_block_is_named(tmp_path):
    digests, rows = np.zeros((1, 16), np.uint8), np.ones((1, WIDTH), np.float32)
    block = write_next_block(tmp_path, digests, rows, np.zeros(1, np.uint8), batches=1)
    assert verify(block) == f"{block}: 1 sequences, all is well"
    content = bytearray(block.read_bytes())
    content[-1] ^= 1
    block.write_bytes(content)
    assert refused(block).startswith("damaged checkpoint block")
    block.unlink()
    assert "No such file" in refused(block)


def replace_first(path: Path, name: str, value: Any) -> None:
    """Put another value in the first row of a Parquet file, which says of itself what it said."""
    table, metadata = pq.read_table(path), read_metadata(path, "index", "shard")
    place = table.schema.names.index(name)
    column = pa.array([value, *table[name].to_pylist()[1:]], table.schema.field(name).type)
    changed = table.set_column(place, table.schema.field(name), column)
    pq.write_table(changed.replace_schema_metadata(metadata), path)


def test_an_index_that_states_another_fingerprint_is_named(results):
    replace_first(results.index, "sequence_id", "x")
    assert refused(results.index) == "damaged; remove it and run again"
    # It is the index that is told, not the file.
    assert refused(results.merged) == f"{results.index}: damaged; remove it and run again"


def test_a_shards_index_with_other_residues_is_named(results):
    path = results.shard_index(0)
    replace_first(path, "residues", b"W")
    assert refused(path).startswith("residues of 's3': are not those of its digest; remove it")


# The program


@pytest.fixture
def run(monkeypatch, capsys) -> Iterator[Callable[..., tuple[int, list[str]]]]:
    """Call the program; returns its exit code and the lines that it said."""
    import verify as program

    def call(*words: object) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["verify.py", *map(str, words)])
        code = program.main()
        said = capsys.readouterr()
        assert said.out == ""
        return code, said.err.splitlines()

    before = signal.getsignal(signal.SIGTERM)
    yield call
    signal.signal(signal.SIGTERM, before)


def test_the_program_says_a_line_a_file_and_looks_at_all(run, results):
    bad = results.shard(0)
    tamper(bad, put("flags", 0, 16))
    files = [results.merged, bad, results.folder / "none.h5", results.fasta, results.shard(1)]
    code, lines = run(*files)
    assert (code, len(lines)) == (1, 6)
    assert lines[0] == f"verify: {results.merged}: 5 sequences, all is well; {ABSENT}"
    assert lines[1].startswith(f"verify: {bad}: flags, row 0 (of 's3'): has bits that mean nothing")
    assert lines[2].startswith(f"verify: {results.folder / 'none.h5'}: cannot be read")
    assert lines[3].startswith(f"verify: {results.fasta}: ends in none of .h5, .parquet, .safet")
    assert lines[4] == f"verify: {results.shard(1)}: 3 sequences, all is well"
    assert lines[5] == f"verify: 3 of 5 files are wrong: {', '.join(map(str, files[1:4]))}"


def test_of_one_file_there_is_one_line(run, results):
    code, lines = run(results.merged, "--index", results.index, "--on-quarantine", "fail")
    assert (code, lines) == (0, [f"verify: {results.merged}: 5 sequences, all is well; {ABSENT}"])
    results.table.unlink()
    code, lines = run(results.merged)
    assert (code, len(lines)) == (1, 1)
    assert lines[0].startswith(f"verify: {results.merged}: {results.table}, line after the last")


def test_sequences_left_out_are_an_exit_code_where_asked(run, tmp_path):
    results = Results(tmp_path).make(["s4"])
    assert run(results.merged)[0] == 0
    code, lines = run(results.merged, "--on-quarantine", "fail")
    assert (code, len(lines)) == (1, 1)
    assert lines[0].startswith(f"verify: {results.merged}: 1 more could not be embedded: 's4' (is")


def write_description(root: Path, weights: bytes = b"weights", name: str = "toy") -> Path:
    """resources/models/{name}.json of weights of these bytes."""
    path, place = root / f"resources/models/{name}.json", root / "weights.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(weights)
    model = PreparedModel(
        name=name,
        family="esm2",
        source="none",
        weights=str(place),
        size=len(weights),
        sha256=hashlib.sha256(weights).hexdigest(),
        architecture=Esm2Architecture(layers=6, width=16, heads=2, ffn_width=32),
        tokenizer="esm2",
        max_length=1022,
    )
    write_prepared(model, path)
    return path


def reindex(results: Results) -> None:
    """The index of the copy's own FASTA file; `good` has that of another folder."""
    check = ResidueCheck(ESM2_LETTERS, "protein", "skip", gaps="error", suspicious="error")
    write_index([results.fasta], results.index, check=check)


def test_input_that_is_gone_is_told(results):
    reindex(results)
    results.fasta.unlink()
    assert verify(results.merged).endswith(
        f"all is well; not there, and so not compared: {results.fasta}, resources/models/toy.json"
    )


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        (">s0\nMKV", ">s0\nMKL", "line 1: record 's0'"),
        (">s2\n", ">s9\n", "line 5: record 's9'"),
        (">s6\nJJ\n", "", "record 's6' is missing, which"),
        (">s6\nJJ\n", ">s6\nJJ\n>s7\nMKV\n", "line 15: record 's7'"),
    ],
)
def test_another_fasta_file_is_told(old, new, place, results):
    reindex(results)
    text = results.fasta.read_text()
    state = results.fasta.stat()
    assert text.count(old) == 1
    results.fasta.write_text(text.replace(old, new))
    # Not by its time: a file that was put back has an old one.
    os.utime(results.fasta, ns=(state.st_atime_ns, state.st_mtime_ns))
    said = refused(results.merged)
    assert f"{results.fasta}" in said and place in said
    assert f"run again with --forcerun {results.index}" in said


def test_input_is_read_as_it_was_indexed(tmp_path):
    fasta, index = tmp_path / "a.faa", tmp_path / "index.parquet"
    fasta.write_text(">sp|P1|ONE\nMK-V\n>P2 x\nmk..v\n")
    check = ResidueCheck(ESM2_LETTERS, "protein", "error", gaps="remove", suspicious="error")
    write_index([fasta], index, "accession", check)
    assert check_fasta(index) == []


def test_weights_that_are_others_now_are_told(results, monkeypatch):
    monkeypatch.chdir(results.root)
    path = write_description(results.root)
    sha256 = read_prepared(path).sha256
    tamper(results.merged, lambda file: file.attrs.update(weights_sha256=sha256))
    assert verify(results.merged) == f"{results.merged}: 5 sequences, all is well"
    (results.root / "weights.safetensors").write_bytes(b"Weights")
    assert "weights.safetensors: is not what resources/models/toy.json" in refused(results.merged)
    write_description(results.root, b"others")
    assert "is of other weights than resources/models/toy.json" in refused(results.merged)


def test_what_weights_were_converted_from_is_compared_too(results, monkeypatch):
    monkeypatch.chdir(results.root)
    path = write_description(results.root)
    original = results.root / "esm2.pt"
    original.write_bytes(b"original")
    sha256 = hashlib.sha256(b"original").hexdigest()
    model = replace(read_prepared(path), original=str(original), original_sha256=sha256)
    write_prepared(model, path)
    tamper(results.merged, lambda file: file.attrs.update(weights_sha256=model.sha256))
    assert verify(results.merged) == f"{results.merged}: 5 sequences, all is well"
    original.write_bytes(b"another")
    assert "esm2.pt: is not what resources/models/toy.json describes" in refused(results.merged)
    original.unlink()
    assert verify(results.merged).endswith(f"not there, and so not compared: {original}")
