"""A fixed sample of the fuzzer's cases; `make fuzz` runs 100,000."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fuzz_index import SOURCES, describe, fuzz, read_sources

from seqembed.checks import file_check, residues
from seqembed.fasta import compression, faults, reader, records
from seqembed.index import sequence_ids, writer

SAMPLE = 800


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    """What the cases set is taken back after the test."""
    monkeypatch.setattr(residues, "read_batches", reader.read_batches)
    monkeypatch.setattr(writer, "INDEX_BATCH_ROWS", writer.INDEX_BATCH_ROWS)


def run(folder: Path, count: int = SAMPLE) -> tuple[dict[str, int], list[str], int]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return fuzz(read_sources(SOURCES), 1, 0, count, folder)


def test_every_case_is_indexed_or_refused_as_the_oracle_says(tmp_path):
    kinds, failures, sequences = run(tmp_path / "cases")
    assert not failures, "\n".join(failures)
    # All that can come of a case is among them, or the sample shows little.
    assert kinds["indexed"] > SAMPLE / 5 and kinds["split"] > SAMPLE / 20, describe(
        kinds, failures, sequences
    )
    assert sum(kind.startswith("refused: ") for kind in kinds) >= 13
    assert sequences > SAMPLE


@pytest.mark.parametrize(
    ("module", "name", "fault"),
    [
        (faults, "_find_line_fault", lambda raw, residues: None),
        (faults, "_find_header_fault", lambda *arguments: None),
        (compression, "_refuse_cut_bgzip", lambda plain, path: None),
        (records, "_find_odd_lines", lambda *arguments: []),
        (records, "_has_stop", lambda plain, first, last: last < 0),
        (file_check, "find_impossible", lambda *arguments: None),
        (reader, "_blank_comments", lambda block: block),
        (sequence_ids.SequenceIds, "_refuse_used", lambda *arguments: None),
    ],
)
def test_a_fault_of_ours_is_noticed(tmp_path, monkeypatch, module, name, fault):
    monkeypatch.setattr(module, name, fault)
    _, failures, _ = run(tmp_path / "cases", SAMPLE // 4)
    assert failures
