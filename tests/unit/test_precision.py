"""The rules, on the CPU and on cards that only state a capability; tests/gpu asks a real one."""

import pytest
import torch

from seqembed.environment import EnvConfig
from seqembed.errors import ConfigError, DeviceError
from seqembed.settings.precision import resolve_precision, should_use_fp16, torch_dtype

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ALLOWED = EnvConfig.from_environ({})
DISABLED = EnvConfig.from_environ({"SEQEMBED_DISABLE_FP16": "1"})


@pytest.fixture
def card(monkeypatch):
    def of_capability(*capability):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    return of_capability


@pytest.mark.parametrize(
    ("capability", "environment", "fp16"),
    [
        ((8, 0), ALLOWED, True),
        ((9, 0), ALLOWED, True),
        ((12, 0), ALLOWED, True),
        ((7, 5), ALLOWED, False),
        ((7, 0), ALLOWED, False),
        ((8, 0), DISABLED, False),
    ],
)
def test_auto_takes_fp16_on_ampere_and_newer_unless_disabled(card, capability, environment, fp16):
    card(*capability)
    assert should_use_fp16(CUDA, environment) is fp16
    assert resolve_precision("auto", CUDA, environment) == ("fp16" if fp16 else "fp32")


def test_the_cpu_computes_in_fp32():
    assert should_use_fp16(CPU, ALLOWED) is False
    assert resolve_precision("auto", CPU, ALLOWED) == "fp32"


def test_an_explicit_precision_is_kept(card):
    card(8, 6)
    assert resolve_precision("fp16", CUDA, ALLOWED) == "fp16"
    assert resolve_precision("fp32", CUDA, ALLOWED) == "fp32"
    assert resolve_precision("fp32", CPU, DISABLED) == "fp32"


def test_fp16_on_the_cpu_is_refused():
    with pytest.raises(DeviceError, match="cannot be used on cpu: .*8.0.*set `precision: auto`"):
        resolve_precision("fp16", CPU, ALLOWED)


def test_fp16_on_an_old_card_is_refused(card):
    card(7, 5)
    with pytest.raises(DeviceError, match="this one has 7.5; set `precision: auto`"):
        resolve_precision("fp16", CUDA, ALLOWED)


def test_fp16_asked_for_and_forbidden_is_refused(card):
    card(8, 0)
    with pytest.raises(ConfigError, match="SEQEMBED_DISABLE_FP16 forbids it; unset it, or set"):
        resolve_precision("fp16", CUDA, DISABLED)


def test_bf16_is_taken_only_where_it_is_asked_for(card):
    card(8, 0)
    assert resolve_precision("bf16", CUDA, DISABLED) == "bf16"
    card(7, 5)
    with pytest.raises(DeviceError, match="`precision: bf16` cannot be .*this one has 7.5"):
        resolve_precision("bf16", CUDA, ALLOWED)


@pytest.mark.parametrize(("flags", "able"), [("sse avx2", False), ("avx512_bf16 sse", True)])
def test_bf16_on_the_cpu_needs_its_instructions(flags, able, monkeypatch, tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t: avx512_bf16\n")
    monkeypatch.setattr("seqembed.settings.precision.CPUINFO", cpuinfo)
    if able:
        assert resolve_precision("bf16", CPU, ALLOWED) == "bf16"
        return
    with pytest.raises(DeviceError, match="on cpu: .* or a CPU with amx_bf16 or avx512_bf16; set"):
        resolve_precision("bf16", CPU, ALLOWED)


def test_dtypes():
    assert torch_dtype("fp32") is torch.float32
    assert torch_dtype("fp16") is torch.float16
    assert torch_dtype("bf16") is torch.bfloat16
