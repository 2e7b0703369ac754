"""What MKL computes has the same bits on any number of threads, also on Intel's processors."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from seqembed.inference.streams import CpuStreams, keep_products_equal

SCRIPTS = Path(__file__).parents[2] / "workflow/scripts"
# The smallest batch, and a product whose long sums MKL divides among threads.
PROGRAM = """
import os
import torch
from seqembed.inference.streams import keep_products_equal
keep_products_equal(os.environ)
weights, rows = torch.randn(1280, 320), torch.randn(128, 1280)
torch.set_num_threads(1)
alone = rows @ weights
for threads in (2, 3, 8):
    torch.set_num_threads(threads)
    assert torch.equal(rows @ weights, alone), threads
"""


def test_small_batches_give_the_same_bits_on_any_number_of_threads():
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, env={"PYTHONPATH": str(SCRIPTS)})


@pytest.mark.parametrize(
    ("vendor", "set_before", "found"),
    [
        ("GenuineIntel", {}, "AUTO,STRICT"),
        ("GenuineIntel", {"MKL_CBWR": "AVX2"}, "AVX2"),
        ("AuthenticAMD", {}, None),
    ],
)
def test_only_intels_processors_need_the_strict_mode(
    vendor, set_before, found, monkeypatch, tmp_path
):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
    monkeypatch.setattr("seqembed.machine.processor.CPUINFO", tmp_path / "cpuinfo")
    environ = dict(set_before)
    keep_products_equal(environ)
    assert environ.get("MKL_CBWR") == found


def test_nobody_gets_tf32_for_fp32():
    environ = {"NVIDIA_TF32_OVERRIDE": "1"}
    keep_products_equal(environ)
    assert environ["NVIDIA_TF32_OVERRIDE"] == "0"


def test_no_two_threads_make_the_first_call_of_a_vector_function(monkeypatch):
    callers, cos = [], torch.Tensor.cos

    def recorded(tensor):
        callers.append(threading.current_thread())
        return cos(tensor)

    monkeypatch.setattr(torch.Tensor, "cos", recorded)
    CpuStreams(2, 2, lambda rows, threads: threads).close()
    assert callers == [threading.current_thread()]
