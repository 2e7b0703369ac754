"""The record of its speed that a worker leaves."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
from worker_runs import Project, WorkerProcess, forget

from seqembed.index.reader import read_shard_index
from seqembed.models.prepared import read_prepared
from seqembed.settings.lengths import resolve_policy
from seqembed.worker.speed_records import SpeedRecord, read_speed_records

LOGGER = logging.getLogger("seqembed.tests")


@pytest.fixture
def embed(context, project):
    """Runs a worker; returns the records that are there then."""

    def run(folder: Path, code: int = 0) -> list[SpeedRecord]:
        assert WorkerProcess(context, project, speeds=str(folder)).finish().exit_code == code
        return read_speed_records(folder, read_prepared(project.model).name, LOGGER)

    return run


def cost_of(project: Project, rows: list[int]) -> tuple[int, float]:
    tokens = read_shard_index(project.index()).tokens[rows]
    policy = resolve_policy("error", "auto", read_prepared(project.model))
    return int(policy.model_tokens(tokens).sum()), float(policy.costs(tokens).sum())


def test_a_worker_records_what_it_computed_and_how_long_that_took(embed, project, tmp_path):
    begin = time.time()
    (record,) = embed(tmp_path / "speeds")
    count = len(read_shard_index(project.index()).rows)
    tokens, cost = cost_of(project, [*range(count)])
    assert (record.sequences, record.tokens, record.cost) == (count, tokens, pytest.approx(cost))
    assert (record.device, record.threads, record.precision) == ("cpu", 1, "fp32")
    assert record.device_name and 0 < record.seconds < time.time() - begin
    # The kernel tells the second of its own start only, from which a process's start is counted.
    assert 0 <= record.start_seconds < time.time() - begin + 2
    assert [path.name for path in (tmp_path / "speeds").glob("*/*")] == ["demo_0.json"]


def test_rows_that_were_there_already_are_not_counted(embed, project, tmp_path):
    embed(tmp_path / "first")
    forget(project, [2, 5, 7])
    (record,) = embed(tmp_path / "second")
    assert (record.sequences, record.cost) == (3, pytest.approx(cost_of(project, [2, 5, 7])[1]))


def test_without_a_batch_there_is_no_record(embed, tmp_path):
    embed(tmp_path / "first")
    assert embed(tmp_path / "second") == []


def test_a_folder_that_cannot_be_written_costs_the_run_nothing(embed, project, tmp_path):
    (tmp_path / "file").write_text("")
    assert embed(tmp_path / "file/speeds") == []
    assert "the speed of this run is not recorded" in project.log.read_text()
