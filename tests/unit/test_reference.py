"""Each family through every entry program, against its authors' own rows."""

from __future__ import annotations

import contextlib
import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CalledProcessError

import h5py
import numpy as np
import pytest
import torch
from batch_runs import LAYOUT_OF
from families_table import TABLE, WHOLE_LENGTHS, Member
from indexing import read_records
from models_in_plain import WHOLE, assert_close, encode
from torch import Tensor

from seqembed.models.families import FAMILIES
from seqembed.settings.lengths import LengthPolicy

SCRIPTS = Path(__file__).parents[2] / "workflow/scripts"
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
# A sequence's tokens, specials included -> their rows of one layer, by somebody else's code.
Reference = Callable[[Tensor], Tensor]


@pytest.fixture(autouse=True)
def _restored(restored_process):
    """Entry programs that run in this process set its signal handlers."""


def call(folder: Path, entry: str, *, apart: bool = False, **options: object) -> None:
    """Run an entry program, in a process of its own if it is `apart`; CalledProcessError."""
    words = [str(SCRIPTS / f"{entry}.py")]
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    if apart:
        subprocess.run([sys.executable, *words], cwd=folder, check=True)
        return
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        if code := runpy.run_path(words[0])["main"]():
            raise CalledProcessError(code, words)


def index(
    folder: Path, source: Path, invalid_residues: str, world_size: int = 1, **changes: object
) -> None:
    """Prepare the model, and write the shards' indices of in.fasta."""
    call(folder, "prepare_model", name="toy", source=source, output="toy.json")
    call(
        folder, "index", fasta="in.fasta", ids="header", model="toy.json",
        invalid_residues=invalid_residues, gaps="keep", suspicious="allow",
        output="r/index.parquet", residues="r/residues.bin",
    )  # fmt: skip
    call(
        folder, "split", index="r/index.parquet", residues="r/residues.bin", model="toy.json",
        world_size=world_size, settings=json.dumps(DEFAULTS | changes), device="cpu",
        output_dir="r/index",
    )  # fmt: skip


def run(
    folder: Path, source: Path, invalid_residues: str, world_size: int = 1, **changes: object
) -> Path:
    """embeddings.h5 of in.fasta, with token rows."""
    what = DEFAULTS | changes
    index(folder, source, invalid_residues, world_size, **changes)
    for rank in range(world_size):
        call(
            folder, "embed_shard", apart=True, index=f"r/index/shard_{rank}.parquet",
            model="toy.json", rank=rank, world_size=world_size, output=f"r/shards/shard_{rank}.h5",
            settings=json.dumps(what), execution=json.dumps(EXECUTION), threads=1,
            log=f"worker_{rank}.log",
        )  # fmt: skip
    call(
        folder, "merge", index="r/index.parquet", output="r/embeddings.h5",
        shards=[f"r/shards/shard_{rank}.h5" for rank in range(world_size)],
        quarantine="r/quarantine.tsv",
    )  # fmt: skip
    return folder / "r/embeddings.h5"


def stitched(member: Member, tokens: Tensor, policy: LengthPolicy, rows_of: Reference) -> Tensor:
    """The rows of a sequence's kept tokens and of its special ones, window by window."""
    specials, inner, parts = FAMILIES[member.family].specials, member.inner(tokens), []
    before, after = tokens[: specials.before], tokens[len(tokens) - specials.after :]
    windows = policy.cut(len(inner))
    for number, window in enumerate(windows):
        rows = rows_of(torch.cat((before, inner[window.start : window.stop], after)))
        last = number == len(windows) - 1
        begin = len(before) + window.keep_start - window.start if number else 0
        end = len(before) + window.keep_stop - window.start + len(after) * last
        parts.append(rows[begin:end])
    return torch.cat(parts)


def pooled(member: Member, rows: Tensor, pooling: str) -> Tensor:
    counted = rows if member.pools_specials else member.inner(rows)
    return {"mean": counted.mean(0), "max": counted.amax(0), "cls": rows[0]}[pooling]


def assert_rows(
    path: Path, member: Member, sequences: list[bytes], policy: LengthPolicy, rows_of: Reference,
    pooling: str, half: bool = False,
) -> None:  # fmt: skip
    """Every pooled row and every token row is the reference's."""
    tokens = encode(sequences, member.tokenizer)
    expected = [stitched(member, own, policy, rows_of) for own in tokens]
    with h5py.File(path) as file:
        rows = torch.from_numpy(file["embeddings"][:].astype(np.float32))
        offsets = file["residues/offsets"][:].tolist()
        token_rows = torch.from_numpy(file["residues/embeddings"][:].astype(np.float32))
    assert offsets == np.cumsum([0, *(len(member.inner(own)) for own in expected)]).tolist()
    ours = [*rows, *(token_rows[a:b] for a, b in zip(offsets[:-1], offsets[1:], strict=True))]
    theirs = [pooled(member, own, pooling) for own in expected]
    theirs += [member.inner(own) for own in expected]
    if half:
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    else:
        assert_close(ours, theirs)


def write_fasta(folder: Path, sequences: list[bytes]) -> None:
    text = "".join(f">s{n}\n{residues.decode()}\n" for n, residues in enumerate(sequences))
    (folder / "in.fasta").write_text(text)


def sequences_of(member: Member) -> list[bytes]:
    """Some that are cut, and residues of all kinds."""
    most = member.max_length
    lengths = [1, 40, 150, most, most + 1, 3 * most // 2, 90]
    return [*member.sequences(lengths), member.odd * 9]


def policy_of(member: Member, long_sequences: str = "auto", most: int = 0) -> LengthPolicy:
    if long_sequences == "auto":
        long_sequences = "full" if member.reads_whole else "window"
    if long_sequences == "full":
        return FULL
    return LengthPolicy(long_sequences=long_sequences, max_length=most or member.max_length)


def poolings(member: Member) -> list[str]:
    return ["mean", "max", "cls"][: 2 + member.has_cls]


WHOLE_OR_CUT = {True: "truncate", False: "full"}
# Each family with what is set by default, and each encoder with one more choice.
CASES = [(member, {}) for member in TABLE]
ENCODERS = {LAYOUT_OF[type(member.small[0])].encoder: member for member in reversed(TABLE)}
for number, member in enumerate(ENCODERS.values()):
    if number % 2:
        read = WHOLE_OR_CUT[member.positions_end]
        CASES.append(
            (member, {"pooling": poolings(member)[-1], "layer": 1, "long_sequences": read})
        )
    else:
        changes = {"pooling": "max", "max_length": 101, "long_sequences": "window"}
        CASES.append((member, changes | {"storage": "float16"}))


@pytest.mark.parametrize(("member", "changes"), CASES, ids=[f"{m.name} {c}" for m, c in CASES])
def test_rows_of_a_family(member, changes, tmp_path):
    architecture = member.small[0]
    weights, sequences = member.make(architecture), sequences_of(member)
    write_fasta(tmp_path, sequences)
    source = member.write(weights, architecture, tmp_path / "model")
    path = run(tmp_path, source, "unk", **changes)
    policy = policy_of(member, changes.get("long_sequences", "auto"), changes.get("max_length", 0))
    rows_of = member.layer(weights, architecture, changes.get("layer", architecture.layers))
    pooling, half = changes.get("pooling", "mean"), "storage" in changes
    assert_rows(path, member, sequences, policy, rows_of, pooling, half)
    with h5py.File(path) as file:
        long = [member.tokenizer.count(residues) > policy.max_length > 0 for residues in sequences]
        assert any(long) is (policy != FULL)
        flag = {"window": 1, "truncate": 2, "full": 0}[policy.long_sequences]
        assert file["flags"][:].tolist() == [flag * is_long for is_long in long]
        assert file["embeddings"].dtype == file["residues/embeddings"].dtype
        assert file["embeddings"].dtype.name == changes.get("storage", "float32")


# Before a worker starts.


@pytest.mark.parametrize("name", ["long_sequences", "max_length"])
@pytest.mark.parametrize(
    "member", [m for m in TABLE if m.positions_end or m is TABLE[0]], ids=lambda member: member.name
)
def test_split_refuses_what_has_no_positions(name, member, tmp_path, capfd):
    most = member.max_length
    value, message = {
        "long_sequences": ("full", "long_sequences is full, but toy"),
        "max_length": (most + 1, f"max_length is {most + 1:,}, but toy"),
    }[name]
    source = member.write(member.make(member.small[0]), member.small[0], tmp_path / "model")
    write_fasta(tmp_path, member.sequences([5, 6]))
    if not member.positions_end:
        index(tmp_path, source, "unk", **{name: value})
        return
    with pytest.raises(CalledProcessError):
        index(tmp_path, source, "unk", **{name: value})
    reason = f"{message} has no positions after {most:,} residues; set `embedding: "
    assert f"split r: {reason}" in capfd.readouterr().err
    assert not list((tmp_path / "r/index").glob("*"))


WHOLE_CASES = [(m, a, pooling) for m in TABLE for a in m.whole for pooling in poolings(m)]


@pytest.mark.skipif(not WHOLE, reason="takes minutes: set SEQEMBED_WHOLE_SHAPES=1")
@pytest.mark.parametrize(
    ("member", "architecture", "pooling"),
    WHOLE_CASES,
    ids=[f"{m.name} {a.layers}x{a.width} {pooling}" for m, a, pooling in WHOLE_CASES],
)
def test_whole_shapes(member, architecture, pooling, tmp_path):
    weights, lengths = member.make(architecture), member.readable(*WHOLE_LENGTHS)
    sequences, read = member.sequences([*lengths]), "window" if member.positions_end else "full"
    write_fasta(tmp_path, sequences)
    source = member.write(weights, architecture, tmp_path / "model")
    path = run(tmp_path, source, "unk", pooling=pooling, long_sequences=read)
    rows_of = member.layer(weights, architecture, architecture.layers)
    assert_rows(path, member, sequences, policy_of(member, read), rows_of, pooling)


def test_ids_stand_in_input_order_beside_their_own_rows(tmp_path):
    member, architecture = TABLE[0], TABLE[0].small[0]
    weights = member.make(architecture)
    source = member.write(weights, architecture, tmp_path / "model")
    sequences = [sequences_of(member)[n] for n in (2, 1, 6, 2, 0)]
    write_fasta(tmp_path, [*sequences, b"MJ*K"])
    path = run(tmp_path, source, "skip", world_size=2)
    records = list(read_records(tmp_path / "in.fasta"))
    with h5py.File(path) as file:
        assert file["sequence_ids"].asstr()[:].tolist() == [r.sequence_id for r in records[:-1]]
        assert file["lengths"][:].tolist() == [len(residues) for residues in sequences]
    rows_of = member.layer(weights, architecture, architecture.layers)
    assert_rows(path, member, sequences, FULL, rows_of, "mean")
    lines = (tmp_path / "r/quarantine.tsv").read_text().splitlines()
    assert lines[0] == "sequence_id\treason"
    assert len(lines) == 2 and lines[1].startswith("s5\tresidue 'J' at 2")
