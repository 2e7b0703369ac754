"""Index and split mutated files, and hold what comes of it against an independent oracle.

Each case is a function of the seed and its number, which a failure names: `--first N --count 1`
repeats it. A case is good where the index holds exactly what the oracle reads, or where an error
names a file, a line and a fault that the oracle finds there.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "workflow/scripts"))

import numpy as np  # noqa: E402 (the library is found by its path)
import pyarrow.parquet as pq  # noqa: E402
from fuzz_mutations import cut, mutate, wrap  # noqa: E402
from fuzz_oracle import LETTERS, Row, Truth, read_truth  # noqa: E402

from seqembed.checks import residues  # noqa: E402
from seqembed.checks.residues import ResidueCheck  # noqa: E402
from seqembed.errors import FastaError, ResidueError, SeqembedError  # noqa: E402
from seqembed.fasta import reader  # noqa: E402
from seqembed.index import parquet, split, writer  # noqa: E402
from seqembed.index import reader as index_reader  # noqa: E402
from seqembed.models.encoders.tokenization import BpeTokenizer, ResidueTokenizer  # noqa: E402
from seqembed.models.vocabularies import ESM  # noqa: E402
from seqembed.settings.lengths import LengthPolicy  # noqa: E402

SOURCES = [
    ROOT / "resources/example/proteins.fasta",
    ROOT / "resources/example/contigs.fasta",
    ROOT / "tests/golden/input.fasta",
    ROOT / "tests/golden/tokens/input.fasta",
]
TOKENIZERS = {
    "protein": ResidueTokenizer(ESM),
    "DNA": BpeTokenizer(ROOT / "tests/data/dnabert_s/tokenizer.json"),
}
NAMES = ["a.fasta", "b.faa.gz", "é [1].fa", "-x.fa", "a:s.fa", "sub/a.fasta"]
CHUNK_BYTES = [1, 2, 3, 7, 64, 1 << 20]
CASE_SECONDS = 20
SPLIT_SHARE = 0.2
SHOWN_FAILURES = 20


class Failure(Exception):
    """What a case should not have come to."""


@dataclass(frozen=True)
class Case:
    """Files and settings; `shards` is 0 where the index is not split."""

    contents: dict[Path, bytes]
    style: str
    molecule: str
    asked: str
    gaps: str
    suspicious: str
    chunk_bytes: int
    batch_rows: int
    shards: int


def make_case(seed: int, number: int, sources: Sequence[bytes], folder: Path) -> Case:
    random = Random(f"{seed}/{number}")
    names = random.sample(NAMES, random.choice([1, 1, 1, 2, 3]))
    kinds = random.sample(sources, random.choice([1, 1, 1, len(sources)]))
    contents = {}
    for name in names:
        joined = b"".join(
            cut(random, random.choice(kinds)) for _ in range(random.choice([1, 1, 2]))
        )
        contents[folder / name] = wrap(random, mutate(random, joined))
    return Case(
        contents=contents,
        style=random.choice(["header", "file:header"]),
        molecule=_choose_molecule(random, contents),
        asked=random.choice(["error", "unk", "skip"]),
        gaps=random.choice(["error", "error", "remove", "keep"]),
        suspicious=random.choice(["error", "allow", "allow"]),
        chunk_bytes=random.choice(CHUNK_BYTES),
        batch_rows=random.choice([1, 2, 65_536]),
        shards=random.randint(1, 3) if random.random() < SPLIT_SHARE else 0,
    )


def _choose_molecule(random: Random, contents: dict[Path, bytes]) -> str:
    # Mostly the one that is there: of the other there is little to see.
    letters = b"".join(contents.values()).translate(None, b"ACGTNacgtn\n")
    likely = "protein" if len(letters) > sum(map(len, contents.values())) / 2 else "DNA"
    return likely if random.random() < 0.9 else random.choice(sorted(LETTERS))


def run_case(case: Case, output: Path) -> tuple[str, int]:
    """Index the case's files; return what came of it, in a word, and how many sequences it has.

    Raises Failure for what is not right.
    """
    how = {"gaps": case.gaps, "suspicious": case.suspicious}
    truth = read_truth(case.contents, case.style, case.molecule, case.asked, **how)
    check = ResidueCheck(TOKENIZERS[case.molecule].letters, case.molecule, case.asked, **how)
    # Read in chunks, and write in groups, of the case's sizes.
    residues.read_batches = partial(reader.read_batches, chunk_bytes=case.chunk_bytes)
    writer.INDEX_BATCH_ROWS = case.batch_rows
    spool = output.with_suffix(".bin")
    try:
        writer.write_index(list(case.contents), output, spool, case.style, check)
    except SeqembedError as error:
        _check_leftovers(output.parent, [])
        return _check_error(case, truth, error), 0
    _check_leftovers(output.parent, [spool.name, output.name])
    _check_index(case, truth, output)
    if case.shards:
        _check_shards(case, truth, output)
    return ("split" if case.shards else "indexed"), len(truth.rows)


@contextmanager
def time_limit() -> Iterator[None]:
    """Raise Failure in the body when it has hung for CASE_SECONDS."""

    def stop(number: int, frame: Any) -> None:
        raise Failure(f"took more than {CASE_SECONDS} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(CASE_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


def _check_leftovers(folder: Path, expected: list[str]) -> None:
    found = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    _same("files that are left", found, expected)


def _check_error(case: Case, truth: Truth, error: SeqembedError) -> str:
    """The kind of an error that the oracle agrees with."""
    if isinstance(error, FastaError):
        if case.suspicious == "error" and "`suspicious: allow`" in str(error):
            return "refused: suspicious"
        for fault in truth.faults:
            same_place = (error.path, error.line) == (fault.path, fault.line)
            if same_place and str(fault.path) in str(error) and fault.words in str(error):
                return "refused: " + (fault.words.partition(" in /")[0] or "a preamble")
        raise Failure(f"FastaError {error}; but the oracle finds {truth.faults}")
    if truth.faults or not isinstance(error, ResidueError):
        raise Failure(f"{type(error).__name__} {error}; but the oracle finds {truth.faults}")
    if case.gaps == "error" and truth.gapped:
        _check_counts(truth.gapped, [row.gaps for row in truth.gapped], "gap", str(error))
        return "refused: gaps"
    if not truth.refused_residues(case.asked):
        raise Failure(f"{error}; but the oracle finds nothing that `{case.asked}` refuses")
    counts = [row.unknown for row in truth.unknown]
    _check_counts(truth.unknown, counts, "residue", str(error))
    if f" at {truth.unknown[0].first:,}" not in str(error):
        raise Failure(f"an error without the first place: {error}")
    return "refused: unknown residues"


def _check_counts(rows: list[Row], counts: list[int], noun: str, text: str) -> None:
    """An error has the number of characters and sequences, and the first place."""
    total, first = sum(counts), rows[0]
    amounts = f"{total:,} {noun}{'s' * (total != 1)} in {len(rows):,} sequence"
    place = f"; the first: {first.path}, line {first.line}, record "
    for expected in (amounts + "s" * (len(rows) != 1) + " (", place):
        if expected not in text:
            raise Failure(f"an error without {expected!r}: {text}")


def _check_index(case: Case, truth: Truth, path: Path) -> None:
    """The index holds the oracle's rows, and says so in its metadata."""
    gapped = truth.gapped if case.gaps == "error" else []
    if truth.faults or gapped or truth.refused_residues(case.asked):
        raise Failure(f"indexed; but the oracle finds {truth.faults or 'unknown residues'}")
    with pq.ParquetFile(path) as file:
        found = [tuple(row.values()) for row in file.read().to_pylist()]
    reasons = [_reason(row, case.asked) for row in truth.rows]
    expected = [
        (n, r.sequence_id, r.description, len(r.residues), str(r.path), r.offset, r.digest, reason)
        for n, (r, reason) in enumerate(zip(truth.rows, reasons, strict=True))
    ]
    _same("the index", [row[:7] for row in found], [row[:7] for row in expected])
    for row, wanted in zip(found, expected, strict=True):
        if (row[7] is None) != (wanted[7] is None) or not (row[7] or "").endswith(wanted[7] or ""):
            raise Failure(f"row {row} is excluded for {row[7]!r}, but should be for {wanted[7]!r}")
    _same("the fingerprint", parquet.read_metadata(path, "index")["fingerprint"], _hash(found))
    spool = path.with_suffix(".bin").read_bytes()
    _same("the residues", spool, b"".join(row.residues for row in truth.rows))


def _reason(row: Row, asked: str) -> str | None:
    if asked != "skip" or not row.unknown:
        return None
    return f" at {row.first:,} is unknown to the model ({row.unknown:,} such)"


def _hash(rows: list[tuple[Any, ...]]) -> str:
    parts = (
        row[1].encode() + b"\0" + row[6] + (b"\0%b\0" % row[7].encode() if row[7] else b"")
        for row in rows
    )
    return hashlib.blake2b(b"".join(parts), digest_size=32).hexdigest()


def _check_shards(case: Case, truth: Truth, path: Path) -> None:
    """Each distinct sequence is in one shard, and what reads the index reads the oracle's rows."""
    kept = [not _reason(row, case.asked) for row in truth.rows]
    _check_reading(truth, kept, path)
    shards = [path.parent / f"shards/{rank}.parquet" for rank in range(case.shards)]
    tokenizer = TOKENIZERS[case.molecule]
    firsts: dict[bytes, int] = {}
    for number, row in enumerate(truth.rows):
        if kept[number]:
            firsts.setdefault(row.residues, number)
    policy = LengthPolicy(long_sequences="full", max_length=0)
    how = {"tokenizer": tokenizer, "policy": policy, "unit": "tokens"}
    count = split.split_index(path, path.with_suffix(".bin"), shards, **how).distinct
    _same("the number of distinct sequences", count, len(firsts))
    expected = [
        (n, truth.rows[n].sequence_id, len(text), truth.rows[n].digest, text, tokenizer.count(text))
        for text, n in firsts.items()
    ]
    found = [row for rank, shard in enumerate(shards) for row in _read_shard(shard, rank, case)]
    _same("the shards", sorted(found), sorted(expected))


def _check_reading(truth: Truth, kept: list[bool], path: Path) -> None:
    names = list(index_reader.read_ids_and_reasons(path))
    _same("the names", [name for name, _ in names], [row.sequence_id for row in truth.rows])
    _same("what names exclude", [reason is None for _, reason in names], kept)
    _same("what is excluded", (~index_reader.read_excluded(path)).tolist(), kept)
    lengths, digests = index_reader.read_lengths_and_digests(path)
    _same("the lengths", lengths.tolist(), [len(row.residues) for row in truth.rows])
    _same("the digests", [key.tobytes() for key in digests], [row.digest for row in truth.rows])
    rows = [f"record {row.sequence_id!r} of {row.path}" for row in truth.rows]
    _same("the described rows", index_reader.describe_rows(path, np.arange(len(rows))), rows)


def _read_shard(path: Path, rank: int, case: Case) -> list[tuple[Any, ...]]:
    shard = index_reader.read_shard_index(path)
    _same("a shard's place", (shard.rank, shard.world_size), (rank, case.shards))
    with pq.ParquetFile(path) as file:
        return [tuple(row.values()) for row in file.read().to_pylist()]


def _same(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise Failure(f"{what}: {found!r}, but should be {expected!r}")


def fuzz(
    sources: Sequence[bytes],
    seed: int,
    first: int,
    count: int,
    folder: Path,
    limit: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> tuple[Counter[str], list[str], int]:
    """(what came of `count` cases, from number `first`; the failures; how many sequences).

    limit: what each case runs in.
    """
    kinds: Counter[str] = Counter()
    failures, sequences = [], 0
    (folder / "sub").mkdir()
    for number in range(first, first + count):
        case = make_case(seed, number, sources, folder)
        for path, content in case.contents.items():
            path.write_bytes(content)
        try:
            with limit():
                kind, rows = run_case(case, folder / "out/index.parquet")
            kinds[kind] += 1
            sequences += rows
        except Exception as error:  # noqa: BLE001 (whatever it is, it is what we look for)
            failures.append(f"seed {seed}, case {number}: {type(error).__name__}: {error}")
            if len(failures) == SHOWN_FAILURES:
                break
        shutil.rmtree(folder / "out", ignore_errors=True)
    return kinds, failures, sequences


def read_sources(paths: Sequence[Path]) -> list[bytes]:
    contents = (path.read_bytes() for path in paths)
    return [gzip.decompress(c) if c[:2] == b"\x1f\x8b" else c for c in contents]


def describe(kinds: Counter[str], failures: list[str], sequences: int) -> str:
    """The counts, on one line."""
    total = kinds.total() + len(failures)
    shown = "; ".join(f"{kind} {count:,}" for kind, count in kinds.most_common())
    return f"{total:,} cases, {len(failures):,} failures, {sequences:,} sequences indexed: {shown}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="FASTA to mutate beside the bundled")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the first case's number")
    arguments = parser.parse_args()
    sources = read_sources([*SOURCES, *arguments.files])
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        found = fuzz(
            sources, arguments.seed, arguments.first, arguments.count, Path(name), time_limit
        )
    print(*found[1], sep="\n")
    print(f"{describe(*found)} ({time.monotonic() - begin:,.0f} s)")
    return 1 if found[1] else 0


if __name__ == "__main__":
    sys.exit(main())
