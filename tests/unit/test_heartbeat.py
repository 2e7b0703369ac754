"""The heartbeat of a worker."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

from seqembed.worker.heartbeat import NAME, Heartbeat, open_heartbeat, read_heartbeat

FACTS = {"host": "gpu07", "pid": 5, "slurm_job": "12", "shard": "ab", "device": "cpu"}
FACTS |= {"device_name": ""}


def test_it_is_there_while_the_worker_works_and_then_gone(tmp_path):
    with open_heartbeat(tmp_path, True, 9, FACTS) as file:
        first = read_heartbeat(tmp_path)
        assert first and (first.phase, first.sequences, first.host) == ("starting", 9, "gpu07")
        file.write(phase="computing", batches=3)
        later = read_heartbeat(tmp_path)
        assert later == Heartbeat(
            **FACTS, sequences=9, phase="computing", batches=3, written=later.written
        )
        assert later.written >= first.written
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_worker_removes_it_too(tmp_path):
    with pytest.raises(RuntimeError), open_heartbeat(tmp_path, True, 9, FACTS):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_without_the_lock_there_is_none(tmp_path):
    with open_heartbeat(tmp_path, False, 9, FACTS) as file:
        file.write(batches=1)
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_stops_nothing(tmp_path):
    folder = tmp_path / "shard_0"
    with open_heartbeat(folder, True, 9, FACTS) as file:
        folder.mkdir()
        file.write(batches=1)
        shutil.rmtree(folder)
        file.write(batches=2)
    assert read_heartbeat(folder) is None


@pytest.mark.parametrize("damage", [b"", b"{}", b"7", b"\0" * 80, None])
def test_a_damaged_one_is_not_believed(damage, tmp_path):
    with open_heartbeat(tmp_path, True, 9, FACTS):
        path = tmp_path / NAME
        text = path.read_bytes()
        path.write_bytes(text.replace(b"gpu07", b"gpu08") if damage is None else damage)
        assert read_heartbeat(tmp_path) is None


def test_a_later_version_may_have_more_keys(tmp_path):
    with open_heartbeat(tmp_path, True, 9, FACTS):
        path = tmp_path / NAME
        text = path.read_text().partition(', "checksum"')[0]
        path.write_text(f'{text}, "watts": 700}}')
        assert read_heartbeat(tmp_path).host == "gpu07"


def _beat(folder: Path, host: str, count: int) -> None:
    with open_heartbeat(folder, True, 9, FACTS | {"host": host}) as file:
        for batches in range(count):
            file.write(batches=batches)
        # Until both are done, a reader finds one.
        os._exit(0)


def test_two_writers_never_tear_it(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_beat, args=(tmp_path, h, 2_000)) for h in ("a", "b" * 900)]
    for writer in writers:
        writer.start()
    while not (tmp_path / NAME).exists():
        pass
    hosts = set()
    while any(writer.is_alive() for writer in writers):
        heartbeat = read_heartbeat(tmp_path)
        assert heartbeat, (tmp_path / NAME).read_text()
        hosts.add(heartbeat.host)
    assert hosts == {"a", "b" * 900}
    assert os.listdir(tmp_path) == [NAME]
