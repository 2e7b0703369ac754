"""What the programs of `make gpu` refuse, keep and choose, without a card."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("has_plugin", "more"), [(True, []), (False, ["-p", "no:timeout"])])
def test_the_tests_of_a_card_need_no_plugin_for_timeouts(has_plugin, more, load):
    words = [*load("gpu_tests").timeout_words(has_plugin), *more, "-W", "default"]
    command = [sys.executable, "-m", "pytest", "tests/gpu/test_devices_gpu.py", "--collect-only"]
    ended = subprocess.run([*command, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert ended.returncode == 0, ended.stdout


def test_weights_that_are_whole_outlive_a_call_that_was_stopped_while_it_prepared_them(
    load, tmp_path, monkeypatch
):
    scene = load("gpu_scene")
    run_all = scene.speed.run_all
    weights = tmp_path / "model-tiny_dna/models/hf/model.safetensors"

    def stop_before_the_description(at, commands):
        run_all(at, commands[:-1])
        raise KeyboardInterrupt

    monkeypatch.setattr(scene.speed, "run_all", stop_before_the_description)
    words = ["--shape", "tiny_dna", "--device", "cpu", "--cache", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["gpu_scene.py", *words, "--sequences", "3"])
    with pytest.raises(KeyboardInterrupt):
        scene.main()
    before = weights.stat().st_mtime_ns
    monkeypatch.setattr(scene.speed, "run_all", run_all)
    scene.main()
    assert weights.stat().st_mtime_ns == before
    assert (tmp_path / "model-tiny_dna/model.json").exists()


def test_weights_get_their_name_once_they_are_whole(load, tmp_path):
    make_whole, path = load("make_model").make_whole, tmp_path / "hf"

    def stop(part):
        part.mkdir()
        (part / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_whole(path, stop)
    assert not path.exists()
    make_whole(path, lambda part: part.mkdir())
    assert [*path.iterdir()] == []
    make_whole(path, stop)
