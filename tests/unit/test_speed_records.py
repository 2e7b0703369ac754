"""The records of workers' speed: written whole, replaced, and read back whatever lies beside."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

import pytest

from seqembed.machine.processor import name_processor
from seqembed.worker.speed_records import SpeedRecord, read_speed_records, write_speed_record

LOGGER = logging.getLogger("seqembed.tests")
WORKER = {"model": "demo", "dataset": "mine", "rank": 0}
RECORD = SpeedRecord(
    weights="ab" * 32,
    layer=2,
    pooling="mean",
    precision="fp32",
    storage="float32",
    per_residue=False,
    long_sequences="window",
    max_length=1022,
    kernels="plain",
    device="cpu",
    device_name="a processor",
    threads=1,
    sequences=10,
    tokens=1000,
    cost=1200.0,
    seconds=60.0,
    start_seconds=2.5,
    date="2026-11-30T01:02:03+00:00",
)


def test_what_is_written_is_read(tmp_path):
    path = write_speed_record(tmp_path, RECORD, **WORKER)
    assert path == tmp_path / "demo/mine_0.json"
    assert json.loads(path.read_text())["format_version"] == "1"
    assert read_speed_records(tmp_path, "demo", LOGGER) == [RECORD]
    assert read_speed_records(tmp_path, "other", LOGGER) == []
    assert RECORD.cost_a_second == 20


def test_the_newest_comes_first_and_a_worker_has_one_record(tmp_path):
    later = replace(RECORD, date="2026-12-01T00:00:00+00:00")
    write_speed_record(tmp_path, RECORD, **WORKER)
    write_speed_record(tmp_path, later, **WORKER | {"rank": 1})
    write_speed_record(tmp_path, replace(RECORD, seconds=70.0), **WORKER)
    found = read_speed_records(tmp_path, "demo", LOGGER)
    assert found == [later, replace(RECORD, seconds=70.0)]


@pytest.mark.parametrize(
    ("change", "written"),
    [
        ({"seconds": 1.0}, False),
        ({"seconds": 1.0, "precision": "bf16"}, True),
        ({"seconds": 6.0}, True),
        ({"seconds": 0.0}, False),
        ({"cost": 0.0}, False),
    ],
)
def test_a_short_run_does_not_replace_a_long_one(tmp_path, change: dict[str, Any], written):
    write_speed_record(tmp_path, RECORD, **WORKER)
    short = replace(RECORD, **change)
    assert bool(write_speed_record(tmp_path, short, **WORKER)) is written
    assert read_speed_records(tmp_path, "demo", LOGGER) == [short if written else RECORD]


def test_a_first_run_may_be_short(tmp_path):
    assert write_speed_record(tmp_path, replace(RECORD, seconds=0.5), **WORKER)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        '{"kind": "speed", "format_version": "2"}',
        '{"kind": "speed", "format_version": "1"}',
    ],
)
def test_a_file_of_another_kind_is_named_and_skipped(tmp_path, caplog, text):
    write_speed_record(tmp_path, RECORD, **WORKER)
    (tmp_path / "demo/a.json").write_text(text)
    assert read_speed_records(tmp_path, "demo", LOGGER) == [RECORD]
    assert "a.json: is no record of speed" in caplog.text


def test_a_changed_figure_is_found(tmp_path, caplog):
    path = write_speed_record(tmp_path, RECORD, **WORKER)
    path.write_text(path.read_text().replace("1200.0", "1300.0"))
    assert read_speed_records(tmp_path, "demo", LOGGER) == []
    assert "checksum" in caplog.text


@pytest.mark.parametrize(
    "change", [{"seconds": -1.0}, {"cost": float("nan")}, {"layer": "2"}, {"tokens": True}]
)
def test_an_impossible_value_is_refused(change: dict[str, Any]):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(RECORD, **change)


def test_the_processor_has_a_name():
    assert name_processor().strip()
