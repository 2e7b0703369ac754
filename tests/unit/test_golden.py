"""The first file of each format still reads, and says what it said then: `expected.json`."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from seqembed.checkpoints.blocks import read_block
from seqembed.checkpoints.manifest_and_failures import Suspect, read_failures, read_manifest
from seqembed.index.parquet import read_metadata
from seqembed.index.reader import (
    read_excluded,
    read_ids_and_reasons,
    read_lengths_and_digests,
    read_shard_index,
)
from seqembed.models.prepared import read_prepared
from seqembed.results.quarantine import write_quarantine
from seqembed.results.reader import open_embeddings
from seqembed.settings.recipe import read_recipe
from seqembed.storage.digests import digest_all, to_hex
from seqembed.worker.events import read_events
from seqembed.worker.heartbeat import Heartbeat, read_heartbeat
from seqembed.worker.speed_records import read_speed_records

GOLDEN = Path(__file__).parents[1] / "golden"
QUARANTINE = GOLDEN / "quarantine"


@dataclass(frozen=True)
class Golden:
    """A folder of golden files, and what they say: lists are by the row of the index."""

    folder: Path

    def __getattr__(self, name: str) -> Any:
        return json.loads((self.folder / "expected.json").read_text(encoding="utf-8"))[name]

    def of(self, name: str, rows: list[int]) -> list[Any]:
        return [getattr(self, name)[row] for row in rows]

    def values_of(self, name: str, rows: list[int]) -> list[Any]:
        """Of rows that have an embedding; such lists are by its number."""
        return [getattr(self, name)[self.kept.index(row)] for row in rows]

    def token_values_of(self, rows: list[int]) -> np.ndarray:
        """The first value of each token row, those of a sequence after the other's."""
        return np.concatenate(self.values_of("token_values", rows))

    def assert_near(self, found: np.ndarray, expected: Any) -> None:
        atol = 1e-3 if self.storage == "float16" else 5e-5
        np.testing.assert_allclose(found, expected, atol=atol)


@pytest.fixture(params=["", "tokens"], ids=["first", "tokens"])
def golden(request) -> Golden:
    """The first files; then those with token rows, in float16, of DNA, and some of it excluded."""
    return Golden(GOLDEN / request.param)


def test_index(golden):
    path = golden.folder / "index.parquet"
    assert read_metadata(path, "index")["fingerprint"] == golden.fingerprints["index"]
    lengths, digests = read_lengths_and_digests(path)
    assert (lengths.tolist(), to_hex(digests)) == (golden.lengths, golden.digests)
    # The first is older than what an index may exclude.
    assert list(read_ids_and_reasons(path)) == list(zip(golden.ids, golden.excluded, strict=True))
    kept = [row for row, excluded in enumerate(read_excluded(path)) if not excluded]
    assert kept == golden.kept


def test_a_row_of_an_index():
    first = pq.read_table(GOLDEN / "index.parquet").to_pylist()[0]
    assert first.pop("digest").hex() == Golden(GOLDEN).digests[0]
    assert first == {
        "row": 0,
        "sequence_id": "first",
        "description": "a description",
        "length": 10,
        "file": "input.fasta",
        "byte_offset": 0,
    }


def test_shard_index(golden):
    path, rows = golden.folder / "shard_1.parquet", golden.shard_rows
    shard = read_shard_index(path)
    assert (shard.rank, shard.world_size) == (1, 2)
    assert shard.fingerprint == golden.fingerprints["shard"]
    assert shard.rows.tolist() == rows
    assert shard.lengths.tolist() == golden.of("lengths", rows)
    assert shard.tokens.tolist() == golden.of("tokens", rows)
    residues = digest_all(pq.read_table(path)["residues"].to_pylist())
    assert to_hex(shard.digests) == [key.hex() for key in residues] == golden.of("digests", rows)


def test_model(golden):
    model = read_prepared(golden.folder / "model.json")
    assert {name: getattr(model, name) for name in golden.model} == golden.model


def test_recipe(golden):
    recipe = read_recipe(golden.folder / "recipe.json")
    assert recipe.fingerprint == golden.fingerprints["recipe"]
    assert {name: getattr(recipe, name) for name in golden.recipe} == golden.recipe


def test_checkpoint(golden):
    manifest, prints = read_manifest(golden.folder), golden.fingerprints
    assert (manifest.rank, manifest.world_size, manifest.token_budget) == (1, 2, 4096)
    assert manifest.recipe_fingerprint == prints["recipe"]
    assert manifest.shard_fingerprint == prints["shard"]
    assert manifest.recipe == read_recipe(golden.folder / "recipe.json").fields()
    block, rows = read_block(golden.folder / "batch_00000.safetensors"), golden.shard_rows
    assert (block.first, block.last) == (0, 0)
    assert to_hex(block.digests) == golden.of("digests", rows)
    assert block.flags.tolist() == golden.values_of("flags", rows)
    assert block.rows.dtype == golden.storage
    golden.assert_near(block.rows[:, 0], golden.values_of("values", rows))
    assert (block.residues is not None) == bool(golden.token_values)
    if block.residues:
        assert block.residues.counts.tolist() == golden.of("tokens", rows)
        found = block.residues.rows(golden.folder, manifest.width)
        assert (found.dtype, found.shape) == (golden.storage, (16, 8))
        golden.assert_near(found[:, 0], golden.token_values_of(rows))


@pytest.mark.parametrize(
    ("folder", "name"), [("", "embeddings.h5"), ("tokens", "embeddings.h5"), ("", "shard_1.h5")]
)
def test_embeddings(folder, name):
    golden = Golden(GOLDEN / folder)
    own, rows = {"kind": "embeddings"}, golden.kept
    own["index_fingerprint"] = golden.fingerprints["index"]
    if name == "shard_1.h5":
        own, rows = {"kind": "shard", "rank": 1, "world_size": 2}, sorted(golden.shard_rows)
        own["shard_fingerprint"] = golden.fingerprints["shard"]
    own |= {"model": golden.model["name"], "weights_sha256": golden.model["sha256"]}
    own["recipe_fingerprint"] = golden.fingerprints["recipe"]
    own |= read_recipe(golden.folder / "recipe.json").fields()
    with open_embeddings(golden.folder / name) as file:
        assert {key: file.attributes[key] for key in own} == own
        assert file.lengths().tolist() == golden.of("lengths", rows)
        assert to_hex(file.digests()) == golden.of("digests", rows)
        assert file.flags().tolist() == golden.values_of("flags", rows)
        assert file.rows.dtype == golden.storage
        golden.assert_near(file.rows[:, 0], golden.values_of("values", rows))
        assert (file.residues is not None) == bool(golden.token_values)
        if file.residues is not None:
            assert file.residues.dtype == golden.storage
            golden.assert_near(file.residues[:, 0], golden.token_values_of(rows))
            assert np.diff(file.offsets()).tolist() == golden.of("tokens", rows)
    # As a user reads it.
    with h5py.File(golden.folder / name) as plain:
        assert list(plain["sequence_ids"].asstr()[:]) == golden.of("ids", rows)
        if golden.token_values:
            start, stop = plain["residues/offsets"][4:6]
            long = plain["residues/embeddings"][start:stop]
            golden.assert_near(long[:, 0], golden.token_values[4])


def test_quarantine(tmp_path):
    """What is written today reads as it did then."""
    golden = Golden(GOLDEN / "tokens")
    then = (golden.folder / "quarantine.tsv").read_text(encoding="utf-8")
    pairs = zip(golden.ids, golden.excluded, strict=True)
    expected = ["sequence_id\treason", *(f"{name}\t{why}" for name, why in pairs if why)]
    assert then.splitlines() == expected
    assert write_quarantine(golden.folder / "index.parquet", tmp_path / "now.tsv", {}) == 3
    assert (tmp_path / "now.tsv").read_text(encoding="utf-8") == then


POISON = "dc0bf1dca96a4b49bd8876c851795c08"
BROKEN = "IndexError: index out of range in self"


def test_failures():
    found = read_failures(QUARANTINE)
    assert (found.token_limit, found.quarantined) == (1024, {POISON: BROKEN})
    assert found.in_a_row == {POISON: False}
    crashed = Suspect(reason="the worker was killed by SIGSEGV")
    memory = "OutOfMemoryError: CUDA out of memory"
    alone = Suspect(reason=memory, failed=True, tries=1, memory=True)
    assert found.suspects == {**dict.fromkeys(range(3, 10), crashed), 12: alone}


@pytest.mark.parametrize("name", ["shard_0.h5", "embeddings.h5"])
def test_a_table_of_what_could_not_be_embedded(name):
    with open_embeddings(QUARANTINE / name) as file:
        assert file.quarantine() == {bytes.fromhex(POISON): BROKEN}
        assert file.lengths().tolist() == [3, 10, 2]
    with h5py.File(QUARANTINE / name) as plain:
        assert list(plain["sequence_ids"].asstr()[:]) == ["s0", "s2", "s4"]
        assert plain["quarantine/digests"][:].tobytes().hex() == POISON
        assert list(plain["quarantine/reasons"].asstr()[:]) == [BROKEN]


RUN = GOLDEN / "run"


def test_the_events_of_a_worker():
    events = read_events(RUN / "worker_0.events.jsonl")
    assert len(events) == 39
    firsts = {event["event"]: event for event in reversed(events)}
    assert [*firsts] == [
        *("end", "computed", "checkpoint", "rate", "first", "start", "restart", "leased", "begin"),
    ]
    assert firsts["begin"] | {"host": "vm", "pid": 19761, "slurm_job": None} == firsts["begin"]
    assert firsts["leased"]["device"] == ""
    start = firsts["start"]
    assert [start[name] for name in ("sequences", "tokens", "done", "done_tokens")] == [
        *(1492, 866_055, 0, 0),
    ]
    assert [start[name] for name in ("device", "device_name")] == ["cpu", ""]
    assert start["shard"].startswith("c8830b4d") and start["recipe"].startswith("8b0500dd")
    rate = firsts["rate"]
    assert [rate[name] for name in ("done", "done_tokens", "quarantined")] == [5, 47_104, 0]
    assert rate["checkpoint_seconds"] == 0.015 and rate["time"] == 1796004670.822
    assert firsts["checkpoint"]["computed"] == 3
    assert firsts["restart"]["reason"].endswith("it was killed by SIGSEGV")
    end = firsts["end"]
    names = ("status", "device", "computed", "resumed_sequences", "reused", "quarantined")
    assert [end[name] for name in names] == ["complete", "cpu", 1489, 3, 0, 0]


def test_the_heartbeat_of_a_worker():
    assert read_heartbeat(RUN) == Heartbeat(
        host="vm",
        pid=19767,
        slurm_job=None,
        written=1796004670.822,
        shard="c8830b4d0b00258cd80001cab3458f1ef30f7293d65f18a7cccb75a81306321d",
        device="cpu",
        device_name="",
        phase="computing",
        batches=23,
        sequences=1492,
        tokens=866_055,
        done=5,
        done_tokens=47_104,
        quarantined=0,
        tokens_per_second=3112.6,
        seconds_left=263.1,
        checkpoint_seconds_ago=5.1,
    )


def test_the_record_of_a_workers_speed():
    (record,) = read_speed_records(GOLDEN / "speeds", "demo", logging.getLogger("seqembed"))
    assert (record.tokens, record.cost, record.seconds) == (1000, 1200.0, 60.0)
    assert (record.device, record.device_name, record.threads) == ("cpu", "a processor", 1)
    assert record.date == "2026-11-30T01:02:03+00:00"
