"""How weights are read and go to a device, on devices that every machine has."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import psutil
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode
from weight_files import save_in_parts

from seqembed.errors import ModelError
from seqembed.models import prepared
from seqembed.models.prepared import read_ahead, read_prepared
from seqembed.models.source import SAFETENSORS
from seqembed.models.weights import formats
from seqembed.models.weights.build import build_model
from seqembed.models.weights.checkpoint import read_checkpoint
from seqembed.models.weights.formats import Stored, read_state

ROOT = Path(__file__).parents[2]
MODELS = [ROOT / "tests/data/esm2_random", *(ROOT / "resources/models").glob("*_demo")]
PAGE = os.sysconf("SC_PAGE_SIZE")


class Watch(TorchFunctionMode):
    """Notes what is done with the tensors that are read from a file."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()
        self.uses: list[tuple[str, tuple[Any, ...], Any]] = []
        self._read: list[Tensor] = []

    def wrap(self, name: str, stored: Stored) -> Stored:
        def read() -> Tensor:
            self.reads[name] += 1
            self._read.append(stored.read())
            return self._read[-1]

        return replace(stored, read=read)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if args and any(args[0] is tensor for tensor in self._read):
            self.uses.append((func.__name__, args[1:], kwargs))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_each_tensor_is_read_once_and_moved_before_it_is_cast(folder):
    checkpoint, watch = read_checkpoint(folder), Watch()
    state = {name: watch.wrap(name, stored) for name, stored in checkpoint.state.items()}
    with watch:
        watched = replace(checkpoint, state=state)
        model = build_model(watched, checkpoint.architecture.layers, torch.float16, "meta")
    assert {*watch.reads.values()} == {1}
    assert not [name for name in state.keys() - watch.reads.keys() if "encoder.layer" in name]
    assert watch.uses == [("to", ("meta",), None)] * len(watch.reads)
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}
    assert {weight.dtype for weight in model.parameters()} == {torch.float16}
    assert {buffer.dtype for buffer in model.buffers()} == {torch.float32}


def mapped_bytes() -> int:
    """How much of the files that this process maps counts as its memory."""
    return int(Path("/proc/self/statm").read_text().split()[2]) * PAGE


@pytest.mark.parametrize("parts", [1, 10])
def test_what_was_read_leaves_the_memory(parts, tmp_path, monkeypatch):
    """Also if the files of the weights are read in turn, a tensor of each."""
    size = 1 << 20
    weights = {f"{n:02}": torch.full((size // 4,), float(n)) for n in range(60)}
    path = save_in_parts(weights, tmp_path, SAFETENSORS, parts)
    monkeypatch.setattr(formats, "MAPPED_BYTES", 2 * size)
    before, most = mapped_bytes(), 0
    for name, stored in sorted(read_state(path).items()):
        assert stored.read().eq(int(name)).all()
        most = max(most, mapped_bytes() - before)
    assert size <= most <= (8 if parts == 1 else 15) * size


def test_a_file_that_is_damaged_meanwhile_is_named(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(3), "b": torch.ones(3)}, path)
    monkeypatch.setattr(formats, "MAPPED_BYTES", 1)
    state = read_state(path)
    assert state["a"].read().tolist() == [1, 1, 1]
    path.unlink()
    with pytest.raises(ModelError, match=f"{path}: cannot be read .*; copy it again"):
        state["b"].read()


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_a_file_that_this_machine_cannot_map_is_not_called_damaged(name, tmp_path, monkeypatch):
    """By default, Linux refuses to map a file that is larger than memory and swap."""
    if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "1":
        pytest.skip("this machine maps files of any size")
    memory, path = psutil.virtual_memory().total + psutil.swap_memory().total, tmp_path / name
    values = 2 * memory // 4
    if path.suffix == ".pt":
        torch.save({"a": torch.ones(3)}, path)
        refusal = RuntimeError("unable to mmap")
        monkeypatch.setattr(torch, "load", MagicMock(side_effect=refusal))
    else:
        header = {"a": {"dtype": "F32", "shape": [values], "data_offsets": [0, 4 * values]}}
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, path.stat().st_size + 4 * values)
    with pytest.raises(ModelError, match=f"{path}: cannot be read.* add swap, or save the model"):
        read_state(path)


def test_the_kernel_is_asked_for_every_byte_of_the_weights(prepared_model, monkeypatch):
    asked = []
    monkeypatch.setattr(prepared, "REQUEST_BYTES", 1000)
    monkeypatch.setattr(os, "posix_fadvise", lambda file, *advice: asked.append(advice))
    read_ahead(prepared_model)
    size, advice = read_prepared(prepared_model).size, os.POSIX_FADV_WILLNEED
    assert asked == [(start, 1000, advice) for start in range(0, size, 1000)]


def test_weights_that_are_missing_are_not_read_ahead(tmp_path, prepared_model):
    model = replace(read_prepared(prepared_model), weights=str(tmp_path / "gone"))
    prepared.write_prepared(model, tmp_path / "mine.json")
    read_ahead(tmp_path / "mine.json")
    read_ahead(tmp_path / "missing.json")
