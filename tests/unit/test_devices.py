"""Stand-in nodes, real locks, real processes."""

import fcntl
import logging
import multiprocessing
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from seqembed import devices
from seqembed.devices import Gpu, choose_candidates, find_gpus, lease_device, lease_gpu
from seqembed.environment import EnvConfig
from seqembed.errors import DeviceError, InterruptedRun

# As driver 550 prints it, tabs and blanks included.
INFORMATION = """\
Model: \t\t NVIDIA H100 80GB HBM3
IRQ:   \t\t 214
GPU UUID: \t {uuid}
Video BIOS: \t 96.00.5e.00.01
Bus Type: \t PCIe
DMA Size: \t 52 bits
DMA Mask: \t 0xfffffffffffff
Bus Location: \t {bus_id}
Device Minor: \t {minor}
GPU Firmware: \t 550.54.15
GPU Excluded:\t {excluded}
"""
UNKNOWN_UUID = "GPU-????????-????-????-????-????????????"
LOGGER = logging.getLogger("test_devices")
SPAWN = multiprocessing.get_context("spawn")


class Machine:
    """A driver's folder and device nodes of our own."""

    def __init__(self, root: Path) -> None:
        self.proc, self.dev = root / "proc", root / "dev"
        self.dev.mkdir(parents=True)

    def add(self, bus_id, minor, uuid, *, node=True, excluded="No"):
        folder = self.proc / bus_id
        folder.mkdir(parents=True)
        text = INFORMATION.format(uuid=uuid, bus_id=bus_id, minor=minor, excluded=excluded)
        (folder / "information").write_text(text)
        if node:
            (self.dev / f"nvidia{minor}").touch()

    def gpus(self):
        return find_gpus(self.proc, self.dev)

    def lease(self, asked="auto", rank=0, visible=None, interrupted=lambda: False):
        environment = EnvConfig(disable_fp16=False, visible_devices=visible, in_slurm_step=False)
        places = {"proc": self.proc, "dev": self.dev}
        return lease_device(
            asked, rank, environment, interrupted=interrupted, logger=LOGGER, **places
        )


@pytest.fixture
def bare(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def machine(bare):
    """Two GPUs whose minors are not in the order of the bus."""
    bare.add("0000:3b:00.0", 1, "GPU-aaaa1111-0000-0000-0000-000000000000")
    bare.add("0000:d8:00.0", 0, "GPU-aaaa2222-0000-0000-0000-000000000000")
    return bare


@pytest.fixture
def messages(caplog):
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records]


# What there is


def test_gpus_are_read_from_the_driver_in_bus_order(machine):
    first, second = machine.gpus()
    assert first == Gpu(
        index=0,
        uuid="GPU-aaaa1111-0000-0000-0000-000000000000",
        minor=1,
        bus_id="0000:3b:00.0",
        node=machine.dev / "nvidia1",
    )
    assert (second.index, second.minor, second.cuda_name) == (1, 0, second.uuid)


def test_bus_order_is_of_numbers(bare):
    for minor, bus_id in enumerate(["10000:01:00.0", "2000:0a:00.0", "0000:0b:00.0"]):
        bare.add(bus_id, minor, f"GPU-{minor}")
    assert [gpu.minor for gpu in bare.gpus()] == [2, 1, 0]


def test_without_a_driver_there_is_none(bare):
    assert bare.gpus() == []


def test_what_cannot_be_used_is_not_counted(bare):
    bare.add("0000:01:00.0", 0, "GPU-0", node=False)
    bare.add("0000:02:00.0", 1, "GPU-1", excluded="Yes")
    bare.add("0000:03:00.0", 2, "GPU-2")
    (bare.proc / "0000:04:00.0").mkdir()
    (bare.proc / "0000:05:00.0").mkdir()
    (bare.proc / "0000:05:00.0" / "information").write_text("Model: no minor\nnor a colon\n")
    (bare.proc / "stray").mkdir()
    assert [(gpu.index, gpu.uuid) for gpu in bare.gpus()] == [(0, "GPU-2")]


@pytest.mark.parametrize("line", ["Device Minor:3", "Device Minor:   \t  3  ", "device minor : 3"])
def test_blanks_do_not_matter(bare, line):
    bare.add("0000:01:00.0", 3, "GPU-0")
    (bare.proc / "0000:01:00.0" / "information").write_text(f"GPU UUID:GPU-0\n{line}\n")
    (gpu,) = bare.gpus()
    assert (gpu.minor, gpu.uuid) == (3, "GPU-0")


@pytest.mark.parametrize("uuid", [UNKNOWN_UUID, ""])
def test_a_gpu_whose_uuid_is_not_known_is_named_by_its_bus_order(bare, uuid):
    bare.add("0000:01:00.0", 5, "GPU-0")
    bare.add("0000:02:00.0", 3, uuid)
    gpu = bare.gpus()[1]
    assert (gpu.uuid, gpu.cuda_name) == (None, "1")
    assert choose_candidates(bare.gpus(), "1") == [gpu]


def test_the_uuid_is_read_once_the_node_is_open(bare):
    """As with the driver: a FIFO's opening waits for us to put the UUID in its place."""
    bare.add("0000:01:00.0", 0, UNKNOWN_UUID, node=False)
    node, information = bare.dev / "nvidia0", bare.proc / "0000:01:00.0" / "information"
    os.mkfifo(node)

    def initialise():
        information.write_text(information.read_text().replace(UNKNOWN_UUID, "GPU-known"))
        node.open("wb").close()

    timer = threading.Timer(0.2, initialise)
    timer.start()
    assert [gpu.uuid for gpu in bare.gpus()] == ["GPU-known"]
    timer.join()


# What CUDA_VISIBLE_DEVICES allows


def gpu(index, uuid):
    return Gpu(index=index, uuid=uuid, minor=index, bus_id="", node=Path(f"/dev/nvidia{index}"))


THREE = [gpu(0, "GPU-aaaa1111"), gpu(1, "GPU-aaaa2222"), gpu(2, "GPU-bbbb3333")]


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("  ", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("0", [0]),
        ("2,0", [2, 0]),
        (" 1 , 2 ", [1, 2]),
        ("1,1,GPU-aaaa2222", [1]),
        ("GPU-aaaa2222", [1]),
        ("GPU-b", [2]),
        ("gpu-BBBB,0", [2, 0]),
    ],
)
def test_candidates(visible, indices):
    assert [gpu.index for gpu in choose_candidates(THREE, visible)] == indices


@pytest.mark.parametrize(
    ("visible", "message"),
    [
        ("3", "'3' names no GPU"),
        ("0,7,1", "'7' names no GPU"),
        ("0,-1", "'-1' names no GPU"),
        ("0,,1", "'' names no GPU"),
        ("0,", "'' names no GPU"),
        ("GPU-cccc", "'GPU-cccc' names no GPU"),
        ("GPU-aaaa", "'GPU-aaaa' names 2 GPUs"),
        ("GPU-", "'GPU-' names 3 GPUs"),
        ("aaaa1111", "'aaaa1111' names no GPU"),
        ("0,MIG-1234", "'MIG-1234' names no GPU"),
        ("²", "'²' names no GPU"),
        ("all", "'all' names no GPU"),
    ],
)
def test_an_entry_that_does_not_name_one_gpu_is_refused(visible, message):
    with pytest.raises(DeviceError, match=f"CUDA_VISIBLE_DEVICES: {message} .*unset it"):
        choose_candidates(THREE, visible)


# One GPU, one holder


def hold(gpus, held):
    """Lease, say so, and live until killed."""
    with lease_gpu(gpus, interrupted=lambda: False, logger=LOGGER) as gpu:
        held.put(gpu.index)
        time.sleep(300)


@pytest.fixture
def holder(machine):
    """A process that holds the one that `started(gpus)` returns."""
    children = []

    def started(gpus):
        held = SPAWN.Queue()
        child = SPAWN.Process(target=hold, args=(gpus, held))
        children.append(child)
        child.start()
        return child, held.get(timeout=30)

    yield started
    for child in children:
        child.kill()
        child.join()


def is_free(gpu):
    """Whether the kernel would lock the node now."""
    with gpu.node.open("rb") as node:
        try:
            fcntl.flock(node, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def waits_at_most(seconds):
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() > deadline


def many_short_rounds(gpus, folder, rounds):
    """Mark each leased GPU by a file that must not be there yet; count what went well."""
    for number in range(rounds):
        with lease_gpu(gpus, interrupted=waits_at_most(60), logger=LOGGER) as gpu:
            mark = os.open(folder / f"held_{gpu.index}", os.O_CREAT | os.O_EXCL)
            time.sleep(0.003)
            (folder / f"round_{os.getpid()}_{number}_{gpu.index}").touch()
            (folder / f"held_{gpu.index}").unlink()
            os.close(mark)
        time.sleep(0.001)


def test_six_processes_never_share_one_of_two_gpus(machine, tmp_path):
    gpus, folder = machine.gpus(), tmp_path / "marks"
    folder.mkdir()
    children = []
    for rank in range(6):
        rotated = gpus[rank % 2 :] + gpus[: rank % 2]
        child = SPAWN.Process(target=many_short_rounds, args=(rotated, folder, 60))
        children.append(child)
        child.start()
    for child in children:
        child.join(timeout=120)
    assert [child.exitcode for child in children] == [0] * 6
    rounds = sorted(folder.iterdir())
    assert len(rounds) == 6 * 60
    assert {path.name[-1] for path in rounds} == {"0", "1"}


def test_two_leases_are_two_gpus_and_a_third_waits_for_its_end(machine, holder, messages):
    gpus = machine.gpus()
    _, first = holder(gpus)
    second_child, second = holder(gpus)
    assert {first, second} == {0, 1}
    with (
        pytest.raises(InterruptedRun, match="waiting for a free GPU"),
        lease_gpu(gpus, interrupted=waits_at_most(0.5), logger=LOGGER),
    ):
        pytest.fail("a GPU was held twice")
    threading.Timer(0.5, second_child.kill).start()
    began = time.monotonic()
    with lease_gpu(gpus, interrupted=waits_at_most(30), logger=LOGGER) as gpu:
        assert gpu.index == second
    assert 0.4 < time.monotonic() - began < 10
    waiting = [message for message in messages() if message.startswith("waiting")]
    assert len(waiting) == 2
    assert "GPU 0 (GPU-aaaa1111" in waiting[0]
    assert "GPU 1 (GPU-aaaa2222" in waiting[0]
    assert messages()[-1].startswith(f"leased GPU {second} (GPU-aaaa")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_holder_frees_its_gpu(machine, holder, number):
    gpus = machine.gpus()[:1]
    child, _ = holder(gpus)
    assert not is_free(gpus[0])
    os.kill(child.pid, number)
    child.join()
    assert is_free(gpus[0])


def test_the_wait_is_told_again_after_a_while(machine, holder, messages, monkeypatch):
    monkeypatch.setattr(devices, "REMINDER_SECONDS", 0.5)
    gpus = machine.gpus()[:1]
    holder(gpus)
    with (
        pytest.raises(InterruptedRun),
        lease_gpu(gpus, interrupted=waits_at_most(1.5), logger=LOGGER),
    ):
        pytest.fail("a GPU was held twice")
    assert len(messages()) in (2, 3)


def test_an_interrupted_run_takes_nothing(machine):
    gpus = machine.gpus()
    with (
        pytest.raises(InterruptedRun),
        lease_gpu(gpus, interrupted=lambda: True, logger=LOGGER),
    ):
        pytest.fail("leased all the same")
    assert all(map(is_free, gpus))


def test_the_gpu_is_free_after_the_body_even_if_it_raises(machine):
    gpus = machine.gpus()
    with (
        pytest.raises(KeyError),
        lease_gpu(gpus, interrupted=lambda: False, logger=LOGGER) as gpu,
    ):
        assert not is_free(gpu)
        raise KeyError
    assert is_free(gpu)


def test_a_child_that_outlives_its_parent_does_not_keep_the_gpu(machine):
    (gpu,) = machine.gpus()[:1]
    program = "import time; print('up', flush=True); time.sleep(300)"
    command = [sys.executable, "-c", program]
    with lease_gpu([gpu], interrupted=lambda: False, logger=LOGGER):
        # Not even one for whom nobody closes descriptors.
        child = subprocess.Popen(command, close_fds=False, stdout=subprocess.PIPE)
        assert child.stdout.readline() == b"up\n"
        assert not is_free(gpu)
    try:
        assert child.poll() is None
        assert is_free(gpu)
    finally:
        child.kill()
        child.communicate()


def test_a_node_that_went_away_is_an_error_that_names_it(machine):
    gpus = machine.gpus()[:1]
    gpus[0].node.unlink()
    with (
        pytest.raises(DeviceError, match=re.escape(f"{gpus[0].node} cannot be locked (No such")),
        lease_gpu(gpus, interrupted=lambda: False, logger=LOGGER),
    ):
        pytest.fail("leased a node that is not there")


def test_no_candidate_is_an_error_not_a_wait():
    with (
        pytest.raises(DeviceError, match="no GPU to lease"),
        lease_gpu([], interrupted=lambda: False, logger=LOGGER),
    ):
        pytest.fail("leased nothing")


def test_character_devices_are_leased_like_files(machine):
    try:
        for minor in range(2):
            (machine.dev / f"nvidia{minor}").unlink()
            # The numbers of /dev/null.
            os.mknod(machine.dev / f"nvidia{minor}", 0o444 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes device nodes")
    if len(machine.gpus()) < 2:
        pytest.skip("device nodes do not open on this file system")
    with machine.lease() as first, machine.lease() as second:
        names = [first["CUDA_VISIBLE_DEVICES"], second["CUDA_VISIBLE_DEVICES"]]
        assert names == [gpu.uuid for gpu in machine.gpus()]
        assert not any(map(is_free, machine.gpus()))


# What a worker is given


def test_a_worker_is_tied_to_the_leased_gpu(machine, messages):
    with machine.lease("cuda") as variables:
        first, second = machine.gpus()
        assert variables == {
            "CUDA_VISIBLE_DEVICES": first.uuid,
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        }
        assert (is_free(first), is_free(second)) == (False, True)
    assert is_free(first)
    assert messages() == [f"leased GPU 0 ({first.uuid}, PCI 0000:3b:00.0)"]


@pytest.mark.parametrize(("rank", "index"), [(0, 0), (1, 1), (2, 0), (7, 1)])
def test_ranks_start_at_different_gpus(machine, rank, index):
    with machine.lease(rank=rank) as variables:
        assert variables["CUDA_VISIBLE_DEVICES"] == machine.gpus()[index].uuid


def test_the_candidates_are_those_that_are_visible(machine, bare):
    bare.add("0000:e1:00.0", 2, "GPU-cccc")
    with machine.lease(rank=1, visible="2,0") as first:
        assert first["CUDA_VISIBLE_DEVICES"].startswith("GPU-aaaa1111")
        with machine.lease(rank=1, visible="2,0") as second:
            assert second["CUDA_VISIBLE_DEVICES"] == "GPU-cccc"


@pytest.mark.parametrize("asked", ["auto", "cuda"])
@pytest.mark.parametrize("name", ["1", "GPU-aaaa2222", "MIG-1c2d", "9"])
def test_one_device_from_the_scheduler_is_trusted(machine, messages, asked, name):
    with machine.lease(asked, visible=name) as variables:
        assert variables == {"CUDA_VISIBLE_DEVICES": name, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        assert all(map(is_free, machine.gpus()))
    expected = f"CUDA_VISIBLE_DEVICES names one device, {name}: used as it is, no lease"
    assert messages() == [expected]


@pytest.mark.parametrize("visible", [None, "", "0", "0,1"])
def test_the_cpu_asked_for_needs_no_gpu(machine, messages, visible):
    with machine.lease("cpu", visible=visible) as variables:
        assert variables == {"CUDA_VISIBLE_DEVICES": ""}
        assert all(map(is_free, machine.gpus()))
    assert messages() == []


@pytest.mark.parametrize("visible", [None, "0,1"])
def test_auto_without_a_driver_is_the_cpu_and_says_so(bare, messages, visible):
    with bare.lease("auto", visible=visible) as variables:
        assert variables == {"CUDA_VISIBLE_DEVICES": ""}
    (message,) = messages()
    assert message.startswith(f"no GPU: the NVIDIA driver lists no GPU in {bare.proc}")
    assert message.endswith("using the CPU")


@pytest.mark.parametrize("visible", ["", "-1"])
def test_auto_with_nothing_visible_is_the_cpu_and_says_so(machine, messages, visible):
    with machine.lease("auto", visible=visible) as variables:
        assert variables == {"CUDA_VISIBLE_DEVICES": ""}
    assert messages() == [
        f"no GPU: CUDA_VISIBLE_DEVICES='{visible}' allows no GPU (unset it to allow all); "
        "using the CPU"
    ]


def test_cuda_without_a_driver_is_an_error_with_ways_out(bare):
    with pytest.raises(DeviceError) as error, bare.lease("cuda"):
        pytest.fail("leased a GPU that is not there")
    for part in ("lists no GPU", "nvidia-smi", "`device: cpu`", "CUDA_VISIBLE_DEVICES"):
        assert part in str(error.value)


def test_cuda_with_nothing_visible_is_an_error(machine):
    with (
        pytest.raises(DeviceError, match="CUDA_VISIBLE_DEVICES='' allows no GPU"),
        machine.lease("cuda", visible=""),
    ):
        pytest.fail("leased a GPU that is not allowed")


def test_cuda_with_nodes_that_do_not_open_is_an_error(bare):
    bare.add("0000:01:00.0", 0, "GPU-0", node=False)
    with pytest.raises(DeviceError, match="lists 1 GPUs in .* none"), bare.lease("cuda"):
        pytest.fail("leased a GPU that does not open")


@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_a_list_that_names_no_gpu_is_an_error(machine, asked):
    with pytest.raises(DeviceError, match="'5' names no GPU"), machine.lease(asked, visible="0,5"):
        pytest.fail("leased by a wrong list")


def test_a_signal_ends_the_wait_of_a_device(machine, holder):
    holder(machine.gpus()[:1])
    holder(machine.gpus()[1:])
    with pytest.raises(InterruptedRun), machine.lease(interrupted=waits_at_most(0.3)):
        pytest.fail("a GPU was held twice")
