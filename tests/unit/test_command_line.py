"""What the entries share: one line for what a user can mend, a traceback for a bug."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import worker_runs
from worker_runs import SCRIPTS, embed_command

import embed_shard
import split
from seqembed import command_line
from seqembed.errors import ConfigError, InterruptedRun

pytestmark = pytest.mark.usefixtures("restored_process")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a step that raises; returns the exit code and the log."""
    monkeypatch.setattr(sys, "argv", ["/scripts/split.py"])

    def run_step(error: BaseException) -> tuple[int, str]:
        def step(arguments: argparse.Namespace, logger: logging.Logger) -> None:
            logger.info("%s begins", arguments.log.name)
            raise error

        log = tmp_path / "logs/split.log"
        code = command_line.run(step, argparse.Namespace(log=log))
        return code, log.read_text()

    return run_step


@pytest.mark.parametrize(
    ("error", "code", "level", "line"),
    [
        (ConfigError("shards must be positive"), 1, "ERROR", "shards must be positive"),
        (FileNotFoundError(2, "No such file", "a.faa"), 1, "ERROR", ".*'a.faa'; .*run again"),
        (OSError(28, "No space left", "a.h5"), 1, "ERROR", ".*'a.h5'; make room on its disk.*"),
        (MemoryError("of 9 GB"), 1, "ERROR", r"memory ran out \(of 9 GB\); free memory.*run again"),
        (InterruptedRun("stopped; run again"), 143, "WARNING", "stopped; run again"),
        (KeyboardInterrupt(), 143, "WARNING", "stopped by Ctrl-C"),
    ],
)
def test_what_a_user_can_mend_is_a_line_on_screen_and_in_the_log(
    error, code, level, line, run, capsys
):
    found, log = run(error)
    assert found == code
    assert re.fullmatch(f"split: split.log begins\nsplit: {line}\n", capsys.readouterr().err)
    time = r"[-\d]{10} [:,\d]{12}"
    assert re.fullmatch(f"{time} INFO split.log begins\n{time} {level} {line}\n", log)


def test_a_log_that_cannot_be_opened_is_a_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["split.py"])
    assert command_line.run(lambda *_: None, argparse.Namespace(log=tmp_path)) == 1
    said = capsys.readouterr().err
    assert said.startswith("split: [Errno ") and said.endswith("mend this, and run again\n")


SHOWN = {"SEQEMBED_LOGS_ARE_SHOWN": "1"}


@pytest.mark.parametrize(
    "error", [ConfigError("wrong"), InterruptedRun("stopped"), SystemExit(143)]
)
def test_a_log_that_snakemake_shows_is_not_printed_as_well(error, run, capsys, monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ | SHOWN)
    with contextlib.suppress(SystemExit):
        run(error)
    logging.shutdown()
    assert capsys.readouterr().err == ""


def test_lines_of_a_success_are_printed_whose_log_nobody_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "environ", os.environ | SHOWN)
    monkeypatch.setattr(sys, "argv", ["/scripts/split.py"])
    arguments = argparse.Namespace(log=tmp_path / "log")
    assert command_line.run(lambda _, logger: logger.warning("mind"), arguments) == 0
    assert capsys.readouterr().err == "split: mind\n"
    assert "mind" in arguments.log.read_text()


@pytest.mark.parametrize("log", [None, Path("/")])
def test_an_error_without_a_log_is_printed(log, monkeypatch, capsys):
    monkeypatch.setattr(os, "environ", os.environ | SHOWN)

    def step(*_: Any) -> None:
        raise ConfigError("wrong")

    assert command_line.run(step, argparse.Namespace(log=log)) == 1
    assert re.search(": (wrong|.* and run again)\n$", capsys.readouterr().err)


def test_a_bug_has_its_traceback_in_both(run, capsys):
    code, log = run(ZeroDivisionError("oops"))
    assert code == 1
    for text in (capsys.readouterr().err, log):
        assert "this is a bug in seqembed" in text
        assert "Traceback (most recent call last)" in text
        assert "ZeroDivisionError: oops" in text


def test_a_log_is_optional_and_nothing_is_written_twice(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/scripts/split.py"])
    for _ in range(2):
        arguments = argparse.Namespace(log=None)
        assert command_line.run(lambda _, logger: logger.info("hello"), arguments, label=" 3") == 0
        assert capsys.readouterr().err == "split 3: hello\n"


def test_the_parser_asks_for_a_log_where_one_is_needed(capsys):
    assert command_line.parser("about").parse_args([]).log is None
    assert command_line.parser("about").parse_args(["--log", "a/b"]).log == Path("a/b")
    with pytest.raises(SystemExit):
        command_line.parser("about", needs_log=True).parse_args([])
    assert "--log" in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings", [{"layer": "last"}, worker_runs.EMBEDDING | {"new": 1}, ["layer"], 3]
)
def test_split_refuses_settings_that_it_does_not_know(settings):
    with pytest.raises(ConfigError, match="^--settings: a key is missing or not known"):
        split.read_request(settings)
    assert split.read_request(worker_runs.EMBEDDING).layer == "last"


PROGRAM = """
import argparse, os, sys, time
from pathlib import Path
from seqembed import command_line
from seqembed.storage.publish import published

def step(arguments, logger):
    with published(Path("out/result.bin")) as temporary:
        temporary.write_bytes(bytes(1000))
        print("ready", flush=True)
        time.sleep(60)

sys.exit(command_line.run(step, argparse.Namespace(log=Path("log"))))
"""


@pytest.mark.timing
@pytest.mark.parametrize("count", [1, 20])
def test_sigterm_leaves_no_temporary_file(count, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    how: Any = {"cwd": tmp_path, "env": environment, "text": True}
    how |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], **how)
    assert process.stdout.readline() == "ready\n"
    assert len(list((tmp_path / "out").iterdir())) == 1
    for _ in range(count):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.0002)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 143, said
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "entry", ["clean", "embed_shard", "index", "merge", "prepare_model", "split", "verify"]
)
def test_every_entry_is_guarded_and_describes_itself(entry, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    module: Any = __import__(entry)
    monkeypatch.setattr(sys, "argv", [f"{entry}.py", "--help"])
    with pytest.raises(SystemExit) as caught:
        module.main()
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert module.__doc__.split(",")[0].split()[0] in said and "--log" in said


def embed(folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    files = (folder / name for name in ("index", "model", "results/d/shards/shard_0.h5", "log"))
    monkeypatch.setattr(sys, "argv", embed_command(*files, *more)[1:])
    return embed_shard.main()


@pytest.mark.parametrize(("rank", "world_size"), [(0, 0), (0, -3), (-1, 2), (2, 2)])
def test_embed_shard_refuses_a_rank_outside_the_world_size(
    rank, world_size, tmp_path, monkeypatch, capsys
):
    options = ("--rank", str(rank), "--world-size", str(world_size))
    assert embed(tmp_path, monkeypatch, *options) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f": --rank {rank} --world-size {world_size}: the world size must be at least 1" in line


@pytest.mark.parametrize("option", ["--settings", "--execution"])
@pytest.mark.parametrize("text", ["5", "[]", "null", "{"])
def test_embed_shard_refuses_settings_that_are_no_json_object(
    option, text, tmp_path, monkeypatch, capsys
):
    with pytest.raises(SystemExit, match="2"):
        embed(tmp_path, monkeypatch, option, text)
    assert f"argument {option}: invalid json_object value: '{text}'" in capsys.readouterr().err
