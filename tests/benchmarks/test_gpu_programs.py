"""What the programs of `make gpu` refuse, keep and choose, without a card."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from seqembed.worker import decisions

ROOT = Path(__file__).parents[2]
STEPS = (
    "2026-01-01 00:00:00,000 INFO model raced on cuda:0, fp16, kernels {}, recipe 0123456789ab\n"
)
SLOW = "2026-01-01 00:00:00,000 WARNING CUDA graphs failed (Error: why): no graph is used\n"


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
    weights = tmp_path / "model-tiny_dna-fp32/models/hf/model.safetensors"

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
    assert (tmp_path / "model-tiny_dna-fp32/model.json").exists()


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


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (STEPS.format(1), None),
        (STEPS.format(1) + STEPS.format(1), None),
        (STEPS.format("plain"), "kernels plain"),
        # The first of two processes.
        (STEPS.format("plain") + STEPS.format(1), "kernels 1, plain"),
        ("", "kernels none"),
        (STEPS.format(1) + SLOW, "(?s)without graphs.*CUDA graphs failed"),
    ],
)
def test_a_worker_on_a_gpu_takes_fused_steps_and_its_graphs_hold(lines, why, load, tmp_path):
    check, log = load("gpu_library").check_worker, tmp_path / "worker_0.log"
    log.write_text(lines)
    check(log, "cpu")
    with pytest.raises(SystemExit, match=why) if why else nullcontext():
        check(log, "cuda")


def test_the_phrases_that_a_worker_is_checked_for_are_those_of_the_library(load):
    library = load("gpu_library")
    assert f'"{library.GRAPHS_FAILED} (%s)' in inspect.getsource(library.graphs)
    words = "model raced on cuda:0, fp16, kernels 1, recipe 0123456789ab"
    (line,) = re.findall(r'"(model %s on .*)"', inspect.getsource(decisions))
    assert line % ("raced", "cuda:0", "fp16", "1", "0123456789ab") == words
    assert library.KERNELS.search(f" INFO {words}")[1] == library.FUSED


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def scene(load, cache, monkeypatch) -> Any:
    """The Scene of a tiny model and three sequences, on a CPU."""
    module, words = load("gpu_scene"), ["--shape", "tiny_protein", "--cache", str(cache)]
    words += ["--device", "cpu", "--sequences", "3", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["gpu_scene.py", *words])
    module.main()
    return module.open_scene(module.parse(module.parser("")))


@pytest.mark.parametrize("program", ["timeline", "entries", "peers"])
def test_every_program_checks_its_workers(program, scene, load, tmp_path, monkeypatch):
    checked = []
    check = load("gpu_library").check_worker
    monkeypatch.setattr(
        load("gpu_library"), "check_worker", lambda log, device: checked.append((log, device))
    )
    if program == "timeline":
        load("gpu_timeline").run_worker(scene, tmp_path, tmp_path)
    elif program == "entries":
        load("gpu_entries").Entries(scene, tmp_path).run()
    else:
        peers = load("gpu_peers")
        monkeypatch.setattr(peers, "at_its_best", lambda scene, peer: None)
        monkeypatch.setattr(peers.speed, "race", lambda at, field, *_: field[0].run(at, tmp_path))
        with pytest.raises(SystemExit, match="not all peers"):
            peers.main()
    assert checked == [(tmp_path / "worker_0.log", "cpu")]
    with pytest.raises(SystemExit, match="kernels plain"):
        check(checked[0][0], "cuda")


def test_the_bits_of_a_small_model_are_mostly_those_of_graphs(load):
    module, library, shape = load("gpu"), load("gpu_library"), load("shapes").SHAPES["t6_8M"]
    assert "t6_8M" in module.NAMED_ONLY["bits"] and shape.width <= library.graphs.WIDEST
    count, _ = module.INPUTS["bits"]["t6_8M"]
    lengths = sorted(len(residues) + 2 for residues in load("inputs").generate("protein", count))
    one_shard = lengths[:: load("gpu_entries").SHARDS]
    batches = library.cut_batches(one_shard, library.product_rows(shape, "fp16"))
    packings = (library.packing_of(one_shard[start:stop], "cpu") for start, stop in batches)
    assert len({*map(library.graphs.choose_bucket, packings)}) < len(batches) / 2


@pytest.mark.parametrize(("steady", "share"), [(500, 0.25), (None, None)])
def test_a_worker_s_share_of_the_peak_is_that_of_its_steady_speed(
    steady, share, scene, load, tmp_path, monkeypatch
):
    module, lengths, dropped = load("gpu_timeline"), scene.lengths(), []
    run = {"tokens_per_second": 1, "steady_tokens_per_second": steady}
    monkeypatch.setattr(module, "run_worker", lambda *where: run)
    monkeypatch.setattr(module, "drop_from_cache", dropped.extend)
    peak = 2000 * scene.shape.flops(lengths) / sum(lengths)
    found = module.measure_worker(scene, tmp_path, "warm", peak)
    assert found.pop("of_peak") == (share and pytest.approx(share)) and not dropped
    assert found == {"start": "warm", "peak_flops_per_second": peak} | run
    module.measure_worker(scene, tmp_path, "from disk", peak)
    assert dropped == load("gpu_scene").weight_files(scene)


@pytest.mark.parametrize("more", [[], ["--from-disk"]])
def test_a_time_line_measures_the_peak_once_and_leaves_the_warm_worker_for_last(
    more, scene, load, monkeypatch, capsys
):
    module = load("gpu_timeline")
    monkeypatch.setattr(sys, "argv", [*sys.argv, *more])
    measured = []
    monkeypatch.setattr(module, "measure_peak", lambda *_: measured.append("peak"))
    monkeypatch.setattr(module, "measure_worker", lambda at, folder, start, _: {"start": start})
    monkeypatch.setattr(module, "measure_floors", lambda at, folder, from_disk: {"disk": from_disk})
    capsys.readouterr()
    module.main()
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    starts = [each.get("start", each.get("disk")) for each in found]
    assert starts == ["cold", *(["from disk"] if more else []), bool(more), "warm"]
    assert measured == ["peak"]


def test_weights_are_cut_into_files_as_their_precision_says(load, tmp_path, monkeypatch):
    module, shape = load("make_model"), load("shapes").SHAPES["tiny_protein"]
    sizes = {torch.float32: "100KB", torch.float16: "1GB"}
    assert module.FILE_SIZES.keys() == sizes.keys() == {*module.DTYPES.values()}
    monkeypatch.setattr(module, "FILE_SIZES", sizes)
    for dtype in sizes:
        module.make_esm2(tmp_path / str(dtype), shape, "cpu", dtype)
    files = {dtype: len([*(tmp_path / str(dtype)).glob("*.safetensors")]) for dtype in sizes}
    assert files[torch.float32] > files[torch.float16] == 1


def test_models_whose_real_files_are_fp32_are_made_so_if_a_disk_holds_them(load):
    stored, shapes = load("gpu_scene").STORED, load("shapes").SHAPES
    billions = {
        name: shape.layers * sum(a * b for a, b in shape.products.values()) / 1e9
        for name, shape in shapes.items()
        if shape.family == "esm2"
    }
    assert {name for name in billions if name in stored} == {
        name for name, size in billions.items() if 4 * size > 32
    }
