"""The supervisor: real processes, ended in every way that processes end."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from driver import wait_until
from worker_runs import SCRIPTS, Project, embed_command, make_project, make_sequences

import seqembed
from seqembed import supervisor
from seqembed.checkpoints.blocks import list_blocks, read_block
from seqembed.environment import EnvConfig
from seqembed.errors import DeviceError, InterruptedRun, WorkerError
from seqembed.supervisor import Supervisor
from seqembed.worker.events import read_events
from seqembed.worker.process_end import WorkerEnd

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are seen in /proc")

ENVIRONMENT = EnvConfig.from_environ({})
LOGGER = logging.getLogger("seqembed.tests")


def gone(pid: int) -> bool:
    # A zombie does nothing, and nobody here waits for it.
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def workers_of(pid: int) -> list[int]:
    """The spawned children of a process, without multiprocessing's resource tracker."""
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(pid).children()
        return [child.pid for child in children if "spawn_main" in " ".join(child.cmdline())]
    return []


@pytest.fixture(scope="module")
def long_project(prepared_model, tmp_path_factory) -> Project:
    """A shard that takes seconds, in batches of a few milliseconds."""
    sequences = make_sequences([300] * 2000)
    return make_project(tmp_path_factory.mktemp("long"), prepared_model, sequences)


class Entry:
    """embed_shard.py at work on the long shard, its results in a folder of its own."""

    def __init__(self, project: Project, folder: Path) -> None:
        self.folder = folder
        output, log = folder / "shards/shard_0.h5", folder / "worker.log"
        often = {"token_budget": 600, "checkpoint_seq_threshold": 20}
        command = embed_command(project.index(), project.model, output, log, **often)
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self.pid = self.process.pid

    def blocks(self) -> list[Path]:
        return [path for f in self.folder.glob("checkpoints/*/shard_0") for path in list_blocks(f)]

    def worker(self) -> int:
        """The worker's pid, as soon as it has written a block."""
        wait_until(self.blocks, "the worker has written a block")
        (pid,) = workers_of(self.pid)
        return pid

    def finish(self) -> tuple[int, list[str]]:
        """The exit code and the lines on the screen."""
        _, screen = self.process.communicate(timeout=30)
        return self.process.returncode, screen.splitlines()


@pytest.fixture
def entry(long_project, tmp_path) -> Iterator[Entry]:
    entry = Entry(long_project, tmp_path)
    yield entry
    entry.process.kill()
    entry.process.communicate()


def stop_by_sigterm(entry: Entry) -> None:
    os.kill(entry.pid, signal.SIGTERM)
    os.kill(entry.pid, signal.SIGTERM)


def stop_by_ctrl_c(entry: Entry) -> None:
    os.killpg(entry.pid, signal.SIGINT)


@pytest.mark.timing
@pytest.mark.parametrize("stop", [stop_by_sigterm, stop_by_ctrl_c])
def test_a_signal_lets_the_worker_write_a_checkpoint(stop, entry):
    worker = entry.worker()
    # CUDA cannot be touched where PyTorch is not there.
    assert "libtorch" in Path(f"/proc/{worker}/maps").read_text()
    assert "libtorch" not in Path(f"/proc/{entry.pid}/maps").read_text()
    stop(entry)
    code, lines = entry.finish()
    assert code == 143
    name, _, message = lines[-1].partition(": ")
    assert name.startswith("embed_shard") and name.endswith(" 0")
    assert message == "stopped by a signal; what is finished is kept, run again to go on"
    assert "Traceback" not in "".join(lines)
    assert gone(worker)
    log = (entry.folder / "worker.log").read_text()
    assert " INFO interrupted\n" in log
    # The last block holds what was finished when the signal came, not a full block's 20 rows.
    rows = sum(len(read_block(path).rows) for path in entry.blocks())
    assert f"{rows:,} of 2,000 sequences done" in log


@pytest.mark.timing
def test_a_signal_while_the_worker_starts(entry):
    wait_until(lambda: workers_of(entry.pid), "the worker starts")
    stop_by_sigterm(entry)
    assert entry.finish()[0] == 143


@pytest.mark.timing
def test_a_worker_dies_with_its_supervisor(entry):
    worker = entry.worker()
    os.kill(entry.pid, signal.SIGKILL)
    wait_until(lambda: gone(worker), "the worker is gone", 2)
    for path in entry.blocks():
        read_block(path)


def test_the_supervisor_does_not_import_torch():
    program = "import embed_shard, sys; sys.exit('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    assert subprocess.run([sys.executable, "-c", program], env=environment).returncode == 0


# Workers that only pretend: their processes find another gpu_worker in the library's place.

PRETEND = """\
def gpu_worker(rank, world_size, results, index_path, output_dir, config):
    config["work"](results, config, [rank, world_size, index_path, output_dir])
"""
MEMORY = ("GLIBC_TUNABLES", "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "ARROW_DEFAULT_MEMORY_POOL")
COMPLETE = {"rank": 0, "status": "complete", "num_sequences": 3}


def test_a_users_mistake_is_said_once_and_without_a_traceback(prepared_model, tmp_path):
    """The worker finds the damage; the log's last line has the message, as the screen has."""
    index = tmp_path / "index/shard_0.parquet"
    index.parent.mkdir()
    index.write_bytes(b"PAR1")
    output, log = tmp_path / "results/shards/shard_0.h5", tmp_path / "log"
    command = embed_command(index, prepared_model, output, log)
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    (said,) = [line for line in ended.stderr.splitlines() if str(index) in line]
    message = said.partition(": ")[2]
    assert message.startswith(f"{index}: ") and message.endswith("; what is finished is kept")
    assert f"remove {index.parent} and run again; " in message
    text = log.read_text()
    assert text.endswith(f" ERROR {message}\n") and text.count(message.partition("; ")[0]) == 1
    assert "the worker ends: IndexFormatError" in text and "Traceback" not in text


FAILED = {"rank": 0, "status": "failed", "error": "generic_error", "error_message": "M: bad"}
NAN = {"rank": 0, "status": "numerical_instability", "failed_batch": [1, 2], "error": "nan"}
INTERRUPTED = {"rank": 0, "status": "interrupted", "error_message": "x"}


def report(results: Any, status: dict[str, Any] | None, code: int) -> None:
    if status:
        results.put(status)
    results.close()
    results.join_thread()
    sys.exit(code)


def reports_what_it_was_given(results: Any, config: Any, arguments: list[Any]) -> None:
    names = ("CUDA_VISIBLE_DEVICES", *MEMORY)
    given = {"arguments": arguments, "variables": [os.environ.get(name) for name in names]}
    report(results, COMPLETE | given, 0)


def reports_as_asked(results: Any, config: Any, _: Any) -> None:
    report(results, config["status"], config["code"])


def ignores_signals(results: Any, config: Any, _: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    config["ready"].touch()
    time.sleep(600)


def fails_when_stopped(results: Any, config: Any, _: Any) -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: report(results, FAILED, 1))
    config["ready"].touch()
    time.sleep(600)


@pytest.fixture
def supervise(tmp_path, monkeypatch, restored_process) -> Callable[..., dict[str, Any]]:
    """Runs a Supervisor over a worker that pretends."""
    package = tmp_path / "first/seqembed"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"__path__ += {seqembed.__path__!r}\n")
    (package / "gpu_worker.py").write_text(PRETEND)
    # A spawned process inherits sys.path; this process has imported the library before.
    monkeypatch.syspath_prepend(package.parent)

    def run(work: Any, **changes: Any) -> dict[str, Any]:
        given = {"device": "cpu", "threads": 2, "model": "none.json", "work": work}
        given |= {"ready": tmp_path / "ready", "log_path": tmp_path / "worker.log"}
        environment = EnvConfig.from_environ({"CUDA_VISIBLE_DEVICES": ""})
        arguments = (0, 1, tmp_path / "index", tmp_path / "shards", given | changes)
        return Supervisor(LOGGER, environment, None).run(*arguments)

    return run


@pytest.mark.parametrize("own", [(), ("glibc.malloc.perturb=0", "100", "mimalloc")])
def test_a_worker_gets_its_arguments_and_variables_where_the_users_own_win(
    own, supervise, monkeypatch, tmp_path
):
    for name in MEMORY:
        monkeypatch.delenv(name, raising=False)
    for name, value in zip(MEMORY, own, strict=False):
        monkeypatch.setenv(name, value)
    status = supervise(reports_what_it_was_given)
    assert status["arguments"] == [0, 1, tmp_path / "index", tmp_path / "shards"]
    visible, tunables, shapes, pool = status["variables"]
    assert visible == ""
    assert {"glibc.malloc.tcache_count=0", *own[:1]} <= set(tunables.split(":"))
    assert [shapes, pool] == list(own[1:] or ("16", "system"))


@pytest.mark.parametrize(
    ("status", "code", "error", "message"),
    [
        (FAILED, 1, WorkerError, "^M: bad; what is finished is kept, run again to go on$"),
        (FAILED | {"error": "cuda_oom"}, 1, WorkerError, "^M: bad; out of memory .* fewer shards"),
        (FAILED | {"error": "cuda_runtime"}, 1, WorkerError, "^M: bad; the GPU or its driver"),
        (NAN, 1, WorkerError, "^nan; what is finished is kept"),
        # The exit code has the last word.
        (COMPLETE, 5, WorkerError, "^the worker completed, and then ended with exit code 5;"),
        (None, 7, WorkerError, "without reporting a status: .* exit code 7;"),
        (INTERRUPTED, 143, InterruptedRun, "run again to go on"),
    ],
)
def test_an_end_other_than_complete_is_an_error(status, code, error, message, supervise, tmp_path):
    with pytest.raises(error, match=message) as raised:
        supervise(reports_as_asked, status=status, code=code)
    end = read_events(tmp_path / "worker.events.jsonl")[-1]
    kind = "interrupted" if error is InterruptedRun else "failed"
    assert (end["event"], end["status"], end["reason"]) == ("end", kind, str(raised.value))


@pytest.mark.parametrize(
    ("code", "oom_killed", "memory"),
    [
        (-signal.SIGSEGV, False, False),
        (-signal.SIGKILL, True, True),
        # A library that gives up calls exit.
        (7, None, False),
        (-signal.SIGKILL, False, None),
        (-signal.SIGKILL, None, None),
        (-signal.SIGTERM, False, None),
    ],
)
def test_only_what_a_process_does_to_itself_is_a_crash(code, oom_killed, memory):
    """memory: None for no crash."""
    end = WorkerEnd(status=None, exit_code=code, began=True, oom_killed=oom_killed)
    assert (end.crash and end.crash["memory"]) == memory
    assert end.wants_fresh_worker == (memory is not None)
    unknown = replace(end, began=False)
    assert unknown.crash is None and not unknown.wants_fresh_worker


@pytest.mark.timing
@pytest.mark.parametrize(
    ("work", "grace", "error", "message"),
    [
        (ignores_signals, 0.3, InterruptedRun, "stopped"),
        (fails_when_stopped, 25, WorkerError, "M: bad"),
    ],
)
def test_a_stop_kills_after_a_grace_and_keeps_an_error(
    work, grace, error, message, supervise, tmp_path, monkeypatch
):
    """An error is kept: a checkpoint may not have been written."""

    def stop() -> None:
        wait_until((tmp_path / "ready").exists, "the worker is ready")
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(supervisor, "GRACE_SECONDS", grace)
    threading.Thread(target=stop).start()
    with pytest.raises(error, match=message):
        supervise(work)
    assert workers_of(os.getpid()) == []


def test_without_the_device_that_was_asked_for_no_worker_starts(supervise, tmp_path):
    with pytest.raises(DeviceError, match="device: cuda"):
        supervise(ignores_signals, device="cuda")
    assert not (tmp_path / "ready").exists()


LEFT_NOTHING = '{"left": {"recipe": [7, 0]}}'


@pytest.mark.parametrize(
    ("sources", "config", "expected"),
    [
        (LEFT_NOTHING, {}, True),
        ('{"left": {"recipe": [0, 7]}}', {}, False),
        (LEFT_NOTHING[:-5], {}, False),
        ('{"left": []}', {}, False),
        ('{"left": {"recipe": 7}}', {}, False),
        ('{"left": {"recipe": [0]}}', {}, False),
        ('{"left": {}}', {"reuse": []}, False),
        ('{"left": {}}', {"reuse": ["old.h5"]}, True),
    ],
)
def test_rows_may_be_elsewhere_if_split_found_all_or_files_are_named(
    sources, config, expected, tmp_path
):
    """A damaged list says nothing: a worker names the damage."""
    (tmp_path / "reuse.json").write_text(sources)
    paths = tmp_path / "shard_1.parquet", tmp_path / "results/shards"
    assert supervisor._may_have_rows_elsewhere(1, *paths, config) is expected


def test_a_slurm_step_watches_no_parent():
    inside = EnvConfig.from_environ({"SLURM_STEP_ID": "0"})
    assert Supervisor(LOGGER, inside, 77)._parent is None
    assert Supervisor(LOGGER, ENVIRONMENT, 77)._parent == 77
