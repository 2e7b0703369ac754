"""The rules, on the CPU and on cards that only state a capability; tests/gpu asks a real one."""

import pytest
import torch

from seqembed.environment import EnvConfig
from seqembed.errors import ConfigError, DeviceError
from seqembed.settings.precision import resolve_precision, should_use_fp16

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
    assert resolve_precision("auto", CUDA, environment, "fp16") == ("fp16" if fp16 else "fp32")


@pytest.mark.parametrize(
    ("asked", "device", "environment", "found"),
    [
        ("auto", CPU, ALLOWED, "fp32"),
        ("fp32", CPU, DISABLED, "fp32"),
        ("fp32", CUDA, ALLOWED, "fp32"),
        ("fp16", CUDA, ALLOWED, "fp16"),
        ("bf16", CUDA, DISABLED, "bf16"),
    ],
)
def test_what_is_asked_for_is_kept(card, asked, device, environment, found):
    card(8, 6)
    assert resolve_precision(asked, device, environment, "fp16") == found


@pytest.mark.parametrize(
    ("asked", "device", "capability", "message"),
    [
        ("fp16", CPU, None, "`precision: fp16` .* cpu: .*8.0"),
        ("fp16", CUDA, (7, 5), "this one has 7.5"),
        ("bf16", CUDA, (7, 5), "`precision: bf16` .*this one has 7.5"),
    ],
)
def test_a_precision_that_the_device_lacks_is_refused(card, asked, device, capability, message):
    card(*capability or ())
    with pytest.raises(DeviceError, match=f"{message}.*set `precision: auto`"):
        resolve_precision(asked, device, ALLOWED, "fp16")


def test_fp16_asked_for_and_forbidden_is_refused(card):
    card(8, 0)
    with pytest.raises(ConfigError, match="SEQEMBED_DISABLE_FP16"):
        resolve_precision("fp16", CUDA, DISABLED, "fp16")


@pytest.mark.parametrize(("flags", "able"), [("sse avx2", False), ("avx512_bf16 sse", True)])
def test_bf16_on_the_cpu_needs_its_instructions(flags, able, monkeypatch, tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t: avx512_bf16\n")
    monkeypatch.setattr("seqembed.machine.processor.CPUINFO", cpuinfo)
    if able:
        assert resolve_precision("bf16", CPU, ALLOWED, "fp16") == "bf16"
        return
    with pytest.raises(DeviceError, match="on cpu: .* a CPU with amx_bf16 or avx512_bf16"):
        resolve_precision("bf16", CPU, ALLOWED, "fp16")
