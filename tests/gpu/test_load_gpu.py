"""Weights that are cast and joined on a card: the CPU's bits, and little memory of the host."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from weight_files import save_in_parts
from worker_runs import SCRIPTS

from seqembed.models.architectures import (
    Architecture,
    DnabertArchitecture,
    Esm1bArchitecture,
    Esm2Architecture,
    EsmcArchitecture,
    ProtT5Architecture,
)
from seqembed.models.source import SAFETENSORS
from seqembed.models.weights import dnabert_s, esm1b, esm2, esmc, t5
from seqembed.models.weights.build import build_model
from seqembed.models.weights.checkpoint import Checkpoint
from seqembed.models.weights.formats import MAPPED_BYTES, read_state
from seqembed.models.weights.layout import Layout

SMALL = {
    esm2.LAYOUT: Esm2Architecture(3, 320, 20, 1280),
    esm1b.LAYOUT: Esm1bArchitecture(2, 320, 20, 1280, embedding_norm=True),
    esmc.LAYOUT: EsmcArchitecture(2, 192, 3, 512),
    t5.LAYOUTS[0]: ProtT5Architecture(2, 96, 4, 384, 32, "relu", 32, 128, 128),
    dnabert_s.LAYOUT: DnabertArchitecture(2, 96, 4, 384, 30),
}
# 630 MB in fp32, 26 MB of which are the largest weight.
SIZES = (8, 1280, 20, 5120)
LARGE = Esm2Architecture(*SIZES)
LARGEST = 4 * LARGE.width * LARGE.ffn_width
# What CUDA itself takes for its first copies.
SLACK = 64 << 20


def random_checkpoint(
    folder: Path, layout: Layout, architecture: Architecture, stored: torch.dtype, parts: int = 1
) -> Checkpoint:
    """Random weights of all magnitudes that a cast to fp16 tells apart, and beyond."""
    weights = layout.weights(architecture, architecture.layers, {})
    shapes = {name: shape for weight in weights.values() for name, shape in weight.parts.items()}
    generator = torch.Generator().manual_seed(7)
    state = {}
    for name, shape in shapes.items():
        magnitude = torch.rand(shape, generator=generator) * 14 - 9
        signs = torch.rand(shape, generator=generator) - 0.5
        state[name] = (signs * 10**magnitude).to(stored)
    path = save_in_parts(state, folder, SAFETENSORS, parts)
    return Checkpoint(architecture=architecture, state=read_state(path), path=path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", SMALL, ids=lambda layout: layout.family.name)
def test_the_card_has_the_bits_of_the_cpu(layout, stored, dtype, card, tmp_path):
    architecture = SMALL[layout]
    checkpoint = random_checkpoint(tmp_path, layout, architecture, stored)
    found, expected = (
        build_model(checkpoint, architecture.layers, dtype, device).state_dict()
        for device in ("cuda", "cpu")
    )
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.device.type == "cuda"
        assert tensor.dtype == expected[name].dtype
        assert tensor.stride() == expected[name].stride()
        assert torch.equal(tensor.cpu().view(torch.uint8), expected[name].view(torch.uint8)), name


# In a process of its own: what a process has freed and keeps would hide what it takes.
LOAD = """
import sys
from pathlib import Path
import torch
from seqembed.models.architectures import Esm2Architecture
from seqembed.models.weights.build import build_model
from seqembed.models.weights.checkpoint import Checkpoint
from seqembed.models.weights.formats import read_state

def peak_of_host():
    (line,) = (s for s in open("/proc/self/status") if s.startswith("VmHWM"))
    return 1024 * int(line.split()[1])

device, path, *sizes = sys.argv[1:]
path, architecture = Path(path), Esm2Architecture(*map(int, sizes))
checkpoint = Checkpoint(architecture=architecture, state=read_state(path), path=path)
build_model(checkpoint, 1, torch.float16, device)
Path("/proc/self/clear_refs").write_text("5")  # resets the peak
before = peak_of_host()
model = build_model(checkpoint, architecture.layers, torch.float16, device)
print(peak_of_host() - before, torch.cuda.max_memory_allocated())
print(sum(tensor.nbytes for tensor in model.state_dict().values()))
"""


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="this kernel resets no peak of memory"
)
@pytest.mark.parametrize("parts", [1, 9])
def test_loading_takes_the_memory_of_a_few_tensors_beside_the_model(parts, card, tmp_path):
    path = random_checkpoint(tmp_path, esm2.LAYOUT, LARGE, torch.float32, parts).path
    command = [sys.executable, "-c", LOAD, "cuda", str(path), *map(str, SIZES)]
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    on_host, on_card, weights = map(int, done.stdout.split())
    assert weights <= on_card <= weights + 3 * LARGEST
    assert on_host <= 2 * MAPPED_BYTES + SLACK < weights
