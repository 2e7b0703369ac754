"""The parts of `make gpu`, on a CPU with tiny models: on a card, every minute counts.

Their figures mean nothing here. A step that hangs or fails must not cost what others have found.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
PAGE = ROOT / "docs/speed.md"
NO_FIGURES = "No figures for GPUs are published here yet."
# What the steps of a part find. `large` has all steps of `speed`.
KINDS = {
    "large": {"made", "loading", "encoder", "floors", "graphs", "worker", "start floors"},
    "peers": {"made", "budgets", "race run", "race"},
    "bits": {"made", "compositions", "run", "accuracy"},
}
# So few rounds that each program does all that it does, once.
FEWER: dict[str, dict[str, Any]] = {
    "gemm": {"SECONDS": 1e-3},
    "gpu_bits": {"ROUNDS": 1},
    "gpu_encoder": {"SECONDS": {"cpu": 0.0}, "MOST_TOKENS": 512},
    "gpu_entries": {"SHARDS": 2},
    "gpu_peers": {"BUDGETS": {"cpu": [512]}},
    "gpu_timeline": {"choose_starts": lambda from_disk: ["from disk"]},
}
# Programs for a card that other programs start.
INLINE = {"gpu_entries": ["HOG", "NO_HOG"], "gpu_timeline": ["READ"]}
# Names as CUDA's libraries and PyTorch give them, some cut short.
KERNELS = {
    "nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_bias_TNT": "products",
    "void cutlass::Kernel2<cutlass_80_tensorop_f16_s16816gemm_relu>": "products",
    "void pytorch_flash::flash_fwd_kernel<Traits<64, cutlass::half_t>>": "attention",
    "fmha_cutlassF_f32_aligned_64x64_rf_sm80": "attention",
    "void at::native::vectorized_layer_norm_kernel<c10::Half>": "norms and residuals",
    "void at::native::vectorized_elementwise_kernel<GeluCUDAKernelImpl>": "activation",
    "void at::native::vectorized_elementwise_kernel<silu_kernel<c10::BFloat16>>": "activation",
    "void at::native::vectorized_elementwise_kernel<launch_clamp_scalar(Scalar)>": "activation",
    "void at::native::elementwise_kernel<direct_copy_kernel>": "elementwise, not fused",
    "Memcpy HtoD (Pinned -> Device)": "rest",
}
HANGS = 'print(\'{"kind": "early"}\', flush=True); import time; time.sleep(60)'
FAILS = 'print(\'{"kind": "half"}\'); print("why"); raise SystemExit(3)'


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def fewer(load, monkeypatch) -> Iterator[None]:
    """Few rounds, and one thread, as in a process of its own."""
    threads = torch.get_num_threads()
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    for name, values in FEWER.items():
        for constant, value in values.items():
            monkeypatch.setattr(load(name), constant, value)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("part", "more", "kinds"),
    [
        ("tests", [], {"tests"}),
        ("bits", ["--shapes", "tiny_t5", "--only", "accuracy"], {"made", "accuracy"}),
    ],
)
def test_a_part_runs_to_its_end(part, more, kinds, cache, tmp_path):
    words = ["--part", part, "--device", "cpu", "--results", tmp_path, "--cache", cache, *more]
    command = [sys.executable, BENCHMARKS / "gpu.py", *words]
    ended = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, text=True)
    (path,) = tmp_path.glob(f"cpu-{part}-*.json")
    content = json.loads(path.read_text())
    log = path.with_suffix(".log").read_text()
    states = {step["step"]: step["state"] for step in content["steps"]}
    assert ended.returncode == 0 and set(states.values()) == {"done"}, f"{states}\n{log}"
    found = [finding for step in content["steps"] for finding in step["found"]]
    assert {finding["kind"] for finding in found} == kinds


@pytest.mark.parametrize("part", KINDS)
def test_the_steps_of_a_part_find_what_they_measure(part, load, cache, fewer, monkeypatch, capsys):
    words = ["--part", part, "--device", "cpu", "--cache", str(cache), "--shapes", "tiny_t5"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *words])
    module, found = load("gpu"), []
    for step in module.chosen_steps(module.Part(module.parse())):
        monkeypatch.setattr(sys, "argv", [*step.command[1:], "--threads", "1"])
        load(Path(step.command[1]).stem).main()
        lines = capsys.readouterr().out.splitlines()
        found += filter(None, map(load("gpu_steps").read_finding, lines))
    assert {finding["kind"] for finding in found} == KINDS[part]
    check_findings(found)


def check_findings(found: list[dict[str, Any]]) -> None:
    for finding in found:
        if finding["kind"] == "worker":
            assert all(finding["points"].values()), finding["log"]
            times = [*finding["points"].values()]
            assert times == sorted(times)
            assert finding["peak_flops_per_second"] > 0 and "of_peak" in finding
        if finding["kind"] == "compositions":
            assert finding["equal"] == finding["compared"] == 40
        if finding["kind"] == "race":
            assert finding["difference"] < 1e-4
        if finding["kind"] == "graphs":
            assert finding["buckets"] > 0 < finding["tokens_per_second"]
        if finding["kind"] == "floors":
            assert finding["kernel_seconds"]["products"] > 0 < finding["floors_over_encoder"]


@pytest.mark.parametrize(("shape", "within"), [("ankh_large", True), ("prot_t5", False)])
def test_an_ankh_may_be_farther_from_fp32(shape, within, load):
    found = {"max_abs": 6e-3, "rms": 1.0, "cosine_min": 0.9999985}
    scene = load("contestants").Scene(
        folder=Path(), shape_name=shape, threads=1, device="cuda", precision="fp16"
    )
    assert load("gpu_bits").emit_accuracy(scene, {"precision": "fp16"}, found) == within
    near = found | {"max_abs": 4e-3}
    assert load("gpu_bits").emit_accuracy(scene, {"precision": "fp16"}, near) == within


@pytest.mark.parametrize("part", ["tests", "speed", "attention", "peers", "bits", "large"])
def test_a_part_for_a_card_has_programs_and_models_that_exist(load, part, tmp_path, monkeypatch):
    module, shapes = load("gpu"), load("shapes").SHAPES
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--part", part, "--cache", str(tmp_path)])
    chosen = module.Part(module.parse())
    steps = module.chosen_steps(chosen)
    assert steps and {*chosen.shapes} <= shapes.keys()
    for step in steps:
        assert Path(step.command[1]).is_file()
        assert step.seconds <= module.PART_SECONDS


def test_a_shape_that_only_its_name_chooses_has_inputs_of_its_own(load, tmp_path, monkeypatch):
    module = load("gpu")
    named = [(part, shape) for part, shapes in module.NAMED_ONLY.items() for shape in shapes]
    assert {("speed", "esmc_300m"), ("attention", "prot_t5"), ("bits", "ankh_large")} <= {*named}
    for part, shape in named:
        words = ["gpu.py", "--part", part, "--cache", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", words)
        assert shape not in module.Part(module.parse()).shapes
        monkeypatch.setattr(sys, "argv", [*words, "--shapes", shape])
        steps = module.chosen_steps(module.Part(module.parse()))
        count = str(module.INPUTS[part][shape][0])
        assert steps and all(count in step.command for step in steps)
        assert sum(step.seconds for step in steps if "fair" in step.name) == 0


@pytest.mark.parametrize(
    ("part", "last"),
    [("speed", "encoder t33_650M --precision fp32"), ("bits", "entries t33_650M --precision fp32")],
)
def test_what_is_in_fp32_comes_last_and_can_be_measured_alone(
    part, last, load, tmp_path, monkeypatch
):
    module = load("gpu")
    words = ["gpu.py", "--part", part, "--cache", str(tmp_path), "--shapes", "t33_650M"]
    monkeypatch.setattr(sys, "argv", words)
    assert module.chosen_steps(module.Part(module.parse()))[-1].name.startswith(last)
    monkeypatch.setattr(sys, "argv", [*words, "--only", "fp32"])
    steps = module.chosen_steps(module.Part(module.parse()))
    assert steps[-1].name.startswith(last) and steps[0].name == "scene t33_650M"
    assert all("fp32" in step.name for step in steps if not step.name.startswith("scene"))


@pytest.mark.parametrize("shape", ["tiny_dna", "tiny_t5"])
def test_ways_of_attention_are_held_to_the_plain_formula_and_to_their_own_bits(
    shape, load, capsys, monkeypatch
):
    module, library = load("gpu_attention"), load("gpu_library")
    scene = load("contestants").Scene(
        folder=Path(), shape_name=shape, threads=1, device="cpu", precision="fp32"
    )
    bias = library.bias_of(scene.shape, "cpu")
    batch = module.pack_random(scene, [40, 9, 1], torch.float32)

    def mix(packing, bias):
        attend = library.attend_by_lengths(packing, bias)
        return lambda q, k, v: attend(q, k, v) + v.mean(0)

    def refuse(packing, bias):
        raise RuntimeError("no biases\nin this build")

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    by_length, *others = module.choose_ways(scene, "fp32", bias)
    assert not others and '"left out"' in capsys.readouterr().out
    found = module.try_way(scene, by_length, [batch], bias)
    assert (found["compared"], found["equal"]) == (3, 3)
    assert found["apart"] < 1e-5 < found["rms"] and found["tokens"] == 50
    assert module.try_way(scene, by_length._replace(biased=False), [batch], bias)["rms"] > 0.1
    mixed = module.try_way(scene, by_length._replace(prepare=mix), [batch], bias)
    assert mixed["equal"] < 3 and mixed["apart"] > 1e-2
    assert module.is_right(found, "fp32")
    others = (mixed, found | {"apart": torch.nan}, found | {"equal": 2}, {"error": "none"})
    assert not any(module.is_right(other, "fp32") for other in others)
    refused = module.try_way(scene, by_length._replace(prepare=refuse), [batch], bias)
    assert refused == {"error": "RuntimeError: no biases"}


@pytest.mark.parametrize(
    ("shape", "values"),
    [("tiny_protein", 7 * 64 + 2 * 256), ("tiny_t5", 4 * 64 + 3 * 128 + 128)],
)
def test_memory_is_counted_for_each_row_beside_what_was_there(shape, values, load, monkeypatch):
    module, library = load("gpu_encoder"), load("gpu_library")
    monkeypatch.setattr(library, "pack", lambda sequences, model: (torch.cat(sequences), None))
    scene = load("contestants").Scene(
        folder=Path(), shape_name=shape, threads=1, device="cuda", precision="fp16"
    )
    held = {"synchronize": None, "reset_peak_memory_stats": None}
    held |= {"memory_allocated": 5000, "max_memory_allocated": 5000 + 60 * 700}
    for name, value in held.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    found = module.measure_memory(scene, lambda tokens, packing: None, [[10, 10], [40, 20]])
    assert found == {
        "tokens": 60,
        "bytes_a_token": 700,
        "estimated_bytes_a_token": 2 * values,
    }


def test_a_peak_in_fp32_is_of_true_fp32(load, monkeypatch):
    module = load("gemm")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    module.keep_fp32("cpu")
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    monkeypatch.setattr(module, "FP32_ERROR", 1e-9)
    with pytest.raises(SystemExit, match="no true fp32"):
        module.keep_fp32("cpu")


def test_files_are_known_to_be_in_memory(load, tmp_path):
    module, path = load("gpu_timeline"), tmp_path / "weights"
    path.write_bytes(bytes(1 << 20))
    assert module.is_in_cache(path)
    # A file system may keep all files in memory.
    kept = module.drop_from_cache([path])
    assert module.is_in_cache(path) == kept
    assert path.read_bytes() == bytes(1 << 20) and module.is_in_cache(path)


def test_floors_count_the_steps_of_each_family(load):
    fused_bytes, shapes = load("gpu_encoder").fused_bytes, load("shapes").SHAPES
    # Of one token, in a layer, in values of two bytes.
    rows = {
        name: [own / (2 * shape.layers) for own in fused_bytes(shape, 1, 2).values()]
        for name, shape in shapes.items()
    }
    assert rows["t33_650M"] == [4 * 1280, 8 * 1280, 2 * 5120]
    assert rows["esmc_300m"] == [4 * 960, (8 + 4) * 960, 3 * 2560]
    assert rows["dnabert_s"] == [0, 6 * 768, 3 * 3072]
    # Sums are read and written as float32.
    assert rows["prot_t5"] == [0, 2 * (2 + 2 * 2) * 1024, 2 * 16384]
    assert rows["ankh_large"] == [0, 2 * (2 + 2 * 2) * 1536, 3 * 3840]


def test_wheels_that_do_not_fit_do_not_stop_a_part(load, tmp_path):
    (tmp_path / "broken-1.0-py3-none-any.whl").write_bytes(b"no archive")
    error = load("gpu").install_wheels(tmp_path, str(tmp_path / "target"))
    assert "broken" in error
    assert load("gpu").install_wheels(tmp_path / "none", str(tmp_path)) is None


def test_names_of_files_hold_letters_digits_and_dashes(load):
    options = argparse.Namespace(part="bits", shapes=["t6_8M"], only="--check x")
    name = load("gpu").file_stem(options, "NVIDIA X/1 (MIG)", "2026-01-01")
    assert name == "nvidia_x_1_mig-bits-t6_8M-check_x-2026-01-01"


def test_programs_within_programs_are_python(load):
    for name, programs in INLINE.items():
        for code in programs:
            compile(getattr(load(name), code), code, "exec")
    for code in load("gpu_timeline").FLOORS.values():
        compile(code, "floor", "exec")


def run(load: Any, tmp_path: Path, steps: list[tuple[str, str, float]], seconds: float) -> Any:
    """The content of a report after these steps, each a name, a program and its limit."""
    module: ModuleType = load("gpu_steps")
    report = module.Report(tmp_path / "part.json", {"part": "tried"})
    made = [module.Step(name, [sys.executable, "-c", code], own) for name, code, own in steps]
    module.run_steps(made, report, time.monotonic() + seconds)
    content = json.loads((tmp_path / "part.json").read_text())
    assert report.all_done == all(step["state"] == "done" for step in content["steps"])
    return content["steps"]


def test_what_a_step_found_before_it_hung_or_failed_is_kept(load, tmp_path, monkeypatch):
    monkeypatch.setattr(load("gpu_steps"), "LEAST_SECONDS", 0.0)
    steps = [("hangs", HANGS, 1.0), ("fails", FAILS, 20.0), ("ends", "print(1)", 20.0)]
    hung, failed, ended = run(load, tmp_path, steps, 60.0)
    assert (hung["state"], hung["found"]) == ("stopped after 1 s", [{"kind": "early"}])
    assert (failed["state"], failed["found"]) == ("failed with exit code 3", [{"kind": "half"}])
    assert (ended["state"], ended["found"]) == ("done", [])
    assert "why\n" in (tmp_path / "part.log").read_text()


def test_no_step_begins_after_the_part_s_time(load, tmp_path):
    (step,) = run(load, tmp_path, [("late", "print(1)", 60.0)], 1.0)
    assert step["state"] == "not started: the part's time is over"


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_counts_for_its_step(load, kernel):
    assert load("gpu_encoder").group_of(kernel) == KERNELS[kernel]


def test_tables_are_made_of_the_latest_figures_of_gpus(load, tmp_path):
    module = load("gpu_table")
    for date, equal, device in [
        ("2026-01-02", 400, "cuda"),
        ("2026-01-01", 7, "cuda"),
        ("2026-01-03", 8, "cpu"),
    ]:
        found = {"kind": "compositions", "shape": "t", "precision": "fp16"}
        step = {"found": [found | {"equal": equal, "compared": 400}]}
        part = {"date": date, "device": device, "device_name": "a card", "steps": [step]}
        (tmp_path / f"{equal}.json").write_text(json.dumps(part))
    table = module.render(module.read_findings(tmp_path))
    assert (
        "| a card | t | fp16: token rows equal to the bit in other batches | 400 of 400 |" in table
    )
    assert len(table.splitlines()) == 3


def test_the_table_of_encoders_has_the_worker_s_share_of_the_peak(load, tmp_path):
    own = {"shape": "t", "precision": "fp16", "rows": 8192}
    write_findings(
        tmp_path / "speed.json",
        {"kind": "encoder", "tokens_per_second": 2e6, "of_peak": 0.71} | own,
        {"kind": "floors", "floors_over_encoder": 0.94} | own,
        {"kind": "worker", "start": "cold", "steady_tokens_per_second": 1e6, "of_peak": 0.1} | own,
        {"kind": "worker", "start": "warm", "steady_tokens_per_second": 1.9e6, "of_peak": 0.67}
        | own,
    )
    module = load("gpu_table")
    table = module.encoder_table(module.read_findings(tmp_path))
    cells = "2,000,000 tokens/s | 71% | 0.94 | 1,900,000 tokens/s | 67% | 0.95"
    assert f"| a card | t | fp16 | {cells} |" in table


def write_findings(path: Path, *findings: dict[str, Any]) -> None:
    facts = {"date": "2026-01-01", "device": "cuda", "device_name": "a card"}
    path.write_text(json.dumps(facts | {"steps": [{"found": findings}]}))


@pytest.mark.parametrize(("kept", "rows"), [(0, 2), (2, 1)])
def test_tables_of_a_large_model_say_what_loading_takes(kept, rows, load, tmp_path):
    own = {"shape": "t", "precision": "fp16"}
    points = {"points": {"first batch is done": 9.0}, "seconds_beside_steady": 8.0}
    floors = {"import torch and CUDA's start": 4.0, "files still in the cache": kept}
    floors |= {"reading the weights": 2.0, "reading the weights from disk": 5.0}
    files = {"files": 2, "files_mb": 7000, "largest_file_mb": 5000, "peak_mb": 6000}
    token = {"bytes_a_token": 41_300, "estimated_bytes_a_token": 40_960, "own_rows": 8192}
    write_findings(
        tmp_path / "large.json",
        *({"kind": "worker", "start": start} | own | points for start in ("warm", "from disk")),
        {"kind": "start floors", "shape": "t"} | floors,
        {"kind": "loading"} | own | files,
        *({"kind": "memory", "rows": rows} | own | token for rows in (8192, 4096)),
    )
    module = load("gpu_table")
    memory, start, loading = module.render(module.read_findings(tmp_path)).split("\n\n")
    assert "| a card | t | fp16 | 8,192 | 41.3 kB | 41.0 kB |" in memory and "4,096" not in memory
    assert "| a card | t | in memory | 9.0 s | 6.0 s | 1.50 | 4.50 | 8.0 s |  |" in start
    assert ("| a card | t | on disk | 9.0 s | 9.0 s | 1.00 | 1.80 | 8.0 s |  |" in start) == (
        not kept
    )
    assert len(start.splitlines()) == 2 + rows
    assert "| a card | t | fp16 | 2 | 7,000 MB | 5,000 MB | 6,000 MB | 1.20 |" in loading


def test_the_table_of_graphs_sets_their_speed_beside_the_encoders_own(load, tmp_path):
    own = {"kind": "graphs", "shape": "t", "precision": "fp16", "buckets": 7}
    own |= {"tokens_per_second": 6e6, "tokens_per_second_without": 4e6}
    write_findings(tmp_path / "graphs.json", own | {"capture_seconds": 0.51, "memory_mb": 312.4})
    module = load("gpu_table")
    table = module.render(module.read_findings(tmp_path))
    row = "6,000,000 tokens/s | 4,000,000 tokens/s | 1.50 | 7 | 0.5 s | 312 MB"
    assert f"| a card | t | fp16 | {row} |" in table


def test_the_table_of_attention_leaves_out_tiles_and_says_what_an_operator_lacks(load, tmp_path):
    own = {"kind": "attention", "shape": "t", "precision": "fp16", "biased": True, "tiles": None}
    rows = {"flops_per_second": 2e14, "apart": 1e-3, "rms": 0.3, "equal": 11, "compared": 12}
    write_findings(
        tmp_path / "attention.json",
        own | rows | {"way": "kernel"},
        own | rows | {"way": "kernel, tiled", "tiles": [64, 64, 4, 2]},
        own | {"way": "flash", "error": "RuntimeError: no ALiBi"},
    )
    module = load("gpu_table")
    _, _, *found = module.render(module.read_findings(tmp_path)).splitlines()
    assert found == [
        "| a card | t | fp16 | kernel, with biases | 200 | 1.0e-03 (rms 0.30) | 11 of 12 |",
        "| a card | t | fp16 | flash, with biases | RuntimeError: no ALiBi |  |  |",
    ]


def test_the_page_has_the_tables_of_the_measured_figures(load):
    module = load("gpu_table")
    tables = module.render(module.read_findings(module.RESULTS))
    page = PAGE.read_text(encoding="utf-8")
    assert tables in page
    assert (NO_FIGURES in page) == (not tables)
