"""A real card: leased by its node, pinned by its UUID, and its precision."""

import os
import subprocess
import sys

import pytest
import torch
from stand_in_gpus import LOGGER, leave_after

from seqembed.environment import EnvConfig
from seqembed.errors import InterruptedRun
from seqembed.machine.devices import choose_candidates, find_gpus, lease_device, lease_gpu
from seqembed.settings.precision import resolve_precision, should_use_fp16

DEVICE = torch.device("cuda")
ALLOWED = EnvConfig.from_environ({})
DISABLED = EnvConfig.from_environ({"SEQEMBED_DISABLE_FP16": "1"})
REPORT = """
import torch
cards = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
print([str(card.uuid).removeprefix("GPU-") for card in cards])
"""


def uuids_seen_under(variables):
    command = [sys.executable, "-c", REPORT]
    environ = os.environ | variables
    run = subprocess.run(command, env=environ, check=True, capture_output=True, text=True)
    return run.stdout.strip()


@pytest.fixture
def candidates(card):
    """The GPUs that the tests may use."""
    gpus = find_gpus()
    if not gpus:
        pytest.skip("CUDA works here, and the driver lists no GPU in /proc: nothing to lease")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible and visible.startswith("MIG-"):
        pytest.skip("a part of a GPU (MIG) is visible: its card is not looked up")
    return choose_candidates(gpus, visible)


def test_a_leased_gpu_is_the_one_that_cuda_then_sees(candidates):
    with lease_gpu(candidates, leave_if_asked=leave_after(60), logger=LOGGER) as gpu:
        for name in (gpu.uuid, str(gpu.index)):
            pin = {"CUDA_VISIBLE_DEVICES": name, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
            assert uuids_seen_under(pin) == str([gpu.uuid.removeprefix("GPU-")])


def test_a_leased_gpu_is_not_leased_again(candidates):
    with (
        lease_gpu(candidates, leave_if_asked=leave_after(60), logger=LOGGER) as gpu,
        pytest.raises(InterruptedRun),
        lease_gpu([gpu], leave_if_asked=leave_after(0.5), logger=LOGGER),
    ):
        pytest.fail("a GPU was held twice")


def test_the_worker_of_a_lease_sees_one_gpu(candidates):
    environment = EnvConfig.from_environ(os.environ)
    lease = lease_device("cuda", 0, environment, leave_if_asked=leave_after(60), logger=LOGGER)
    with lease as variables:
        assert uuids_seen_under(variables).count("-") == 4


def test_the_cpu_hides_every_gpu():
    lease = lease_device("cpu", 0, ALLOWED, leave_if_asked=leave_after(0), logger=LOGGER)
    with lease as variables:
        assert uuids_seen_under(variables) == "[]"


def test_fp16_follows_the_cards_capability():
    new_enough = torch.cuda.get_device_capability(DEVICE) >= (8, 0)
    assert should_use_fp16(DEVICE, ALLOWED) is new_enough
    assert should_use_fp16(torch.device("cuda", 0), ALLOWED) is new_enough
    assert resolve_precision("auto", DEVICE, ALLOWED, "fp16") == ("fp16" if new_enough else "fp32")
    assert should_use_fp16(DEVICE, DISABLED) is False
