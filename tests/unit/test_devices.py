"""GPUs and their leases: stand-in nodes, real locks, real processes."""

import fcntl
import logging
import multiprocessing
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from stand_in_gpus import LOGGER, UNKNOWN_UUID, Machine, leave_after, stay

from seqembed.errors import DeviceError, InterruptedRun
from seqembed.machine.devices import Gpu, choose_candidates, lease_gpu

MIGS = [f"MIG-{number}c2d3e4f-0000-1111-2222-333344445555" for number in range(3)]
UUIDS = [f"GPU-aaaa{number}-0000-0000-0000-000000000000" for number in (1111, 2222)]
OLD_MIG = f"MIG-{UUIDS[0]}/1/0"
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def bare(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def machine(bare):
    """Two GPUs whose minors are not in the order of the bus."""
    bare.add("0000:3b:00.0", 1, UUIDS[0])
    bare.add("0000:d8:00.0", 0, UUIDS[1])
    return bare


@pytest.fixture
def messages(caplog):
    caplog.set_level(logging.INFO)
    return lambda: caplog.messages


def refuse(lease, error, message=None):
    """Check that the lease raises before its body."""
    with pytest.raises(error, match=message), lease:
        pytest.fail("leased all the same")


# Which GPUs there are


def test_gpus_are_read_from_the_driver_in_bus_order(machine):
    first, second = machine.gpus()
    node = machine.dev / "nvidia1"
    assert first == Gpu(index=0, uuid=UUIDS[0], bus_id="0000:3b:00.0", node=node)
    assert (second.index, second.node.name, second.cuda_name) == (1, "nvidia0", second.uuid)


def test_bus_ids_are_ordered_as_numbers(bare):
    for minor, bus_id in enumerate(["10000:01:00.0", "2000:0a:00.0", "0000:0b:00.0"]):
        bare.add(bus_id, minor, f"GPU-{minor}")
    assert [gpu.node.name for gpu in bare.gpus()] == ["nvidia2", "nvidia1", "nvidia0"]


def test_unusable_gpus_are_not_counted(bare):
    assert bare.gpus() == []
    bare.add("0000:01:00.0", 0, "GPU-0", node=False)
    bare.add("0000:02:00.0", 1, "GPU-1", excluded="Yes")
    bare.add("0000:03:00.0", 2, "GPU-2")
    (bare.proc / "0000:04:00.0").mkdir()
    (bare.proc / "0000:05:00.0").mkdir()
    (bare.proc / "0000:05:00.0" / "information").write_text("Model: no minor\nnor a colon\n")
    (bare.proc / "stray").mkdir()
    assert [(gpu.index, gpu.uuid) for gpu in bare.gpus()] == [(0, "GPU-2")]


@pytest.mark.parametrize("line", ["Device Minor:3", "Device Minor:   \t  3  ", "device minor : 3"])
def test_blanks_and_case_do_not_matter(bare, line):
    bare.add("0000:01:00.0", 3, "GPU-0")
    (bare.proc / "0000:01:00.0" / "information").write_text(f"GPU UUID:GPU-0\n{line}\n")
    (gpu,) = bare.gpus()
    assert (gpu.node.name, gpu.uuid) == ("nvidia3", "GPU-0")


@pytest.mark.parametrize("uuid", [UNKNOWN_UUID, ""])
def test_a_gpu_of_unknown_uuid_is_named_by_its_bus_order(bare, uuid):
    bare.add("0000:01:00.0", 5, "GPU-0")
    bare.add("0000:02:00.0", 3, uuid)
    gpu = bare.gpus()[1]
    assert (gpu.uuid, gpu.cuda_name) == (None, "1")
    assert choose_candidates(bare.gpus(), "1") == [gpu]


def test_the_uuid_is_read_once_the_node_is_open(bare):
    """As with the driver: opening the FIFO waits until the UUID is there."""
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


# Which GPUs CUDA_VISIBLE_DEVICES allows


def gpu(index, uuid):
    return Gpu(index=index, uuid=uuid, bus_id="", node=Path(f"/dev/nvidia{index}"))


THREE = [gpu(0, "GPU-aaaa1111"), gpu(1, "GPU-aaaa2222"), gpu(2, "GPU-bbbb3333")]


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        (None, [0, 1, 2]),
        *((none, []) for none in ("", "  ", "-1", "NoDevFiles")),
        ("0", [0]),
        ("2,0", [2, 0]),
        (" 1 , 2 ", [1, 2]),
        ("1,1,GPU-aaaa2222", [1]),
        ("GPU-b", [2]),
        ("gpu-BBBB,0", [2, 0]),
    ],
)
def test_entries_name_gpus_by_number_or_uuid_in_their_order(visible, indices):
    assert [gpu.index for gpu in choose_candidates(THREE, visible)] == indices


@pytest.mark.parametrize(
    ("visible", "message"),
    [
        *((visible, "names no GPU") for visible in ("3", "0,7,1", "0,-1", "0,,1", "0,")),
        *((visible, "names no GPU") for visible in ("GPU-cccc", "aaaa1111", "²", "all")),
        ("GPU-aaaa", "names 2 GPUs"),
        ("GPU-", "names 3 GPUs"),
        *(
            (visible, "names no GPU .*A MIG device needs its whole name")
            for visible in ("0,MIG-1234", MIGS[0].lower(), "MIG-GPU-aaaa1111/1/0")
        ),
    ],
)
def test_an_entry_that_does_not_name_one_gpu_is_refused(visible, message):
    with pytest.raises(DeviceError, match=f"CUDA_VISIBLE_DEVICES: '.*' {message}.*unset it"):
        choose_candidates(THREE, visible)


# One GPU, one holder


def hold(gpus, held):
    """Lease, say so, and live until killed."""
    with lease_gpu(gpus, leave_if_asked=stay, logger=LOGGER) as gpu:
        held.put(gpu.cuda_name)
        time.sleep(300)


def hold_as_nobody(devices, held):
    os.setuid(65534)
    hold(devices, held)


@pytest.fixture
def holder():
    """Starts a process that holds one of some devices; gives the process and the device's name."""
    children = []

    def started(devices, target=hold):
        held = SPAWN.Queue()
        child = SPAWN.Process(target=target, args=(devices, held))
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


@pytest.mark.timing
def test_two_leases_are_two_gpus_and_a_third_waits_for_its_end(machine, holder, messages):
    gpus = machine.gpus()
    _, first = holder(gpus)
    second_child, second = holder(gpus)
    assert {first, second} == {gpu.cuda_name for gpu in gpus}
    refuse(machine.lease(leave_if_asked=leave_after(0.5)), InterruptedRun)
    threading.Timer(0.5, second_child.kill).start()
    began = time.monotonic()
    with machine.lease(leave_if_asked=leave_after(30)) as variables:
        assert variables["CUDA_VISIBLE_DEVICES"] == second
    assert 0.4 < time.monotonic() - began < 10
    waiting = [message for message in messages() if message.startswith("waiting")]
    assert len(waiting) == 2
    assert waiting[0].startswith("waiting: other runs hold the ")
    for part in ("GPU 0 (GPU-aaaa1111", "GPU 1 (GPU-aaaa2222", "2 GPUs", "--resources gpu=2"):
        assert part in waiting[0]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user, too")
@pytest.mark.parametrize("name", ["0", MIGS[0]])
def test_the_users_of_a_machine_share_its_gpus(name, holder):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        machine = Machine(Path(folder))
        machine.add("0000:3b:00.0", 0, "GPU-aaaa1111")
        # As the driver makes them.
        for node in machine.dev.iterdir():
            node.chmod(0o666)
        (device,) = choose_candidates(machine.gpus(), name, machine.dev)
        holder([device], hold_as_nobody)
        with pytest.raises(BlockingIOError):
            device.lock()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("name", ["0", MIGS[2]])
def test_a_killed_holder_frees_its_device(machine, holder, name, number):
    (device,) = choose_candidates(machine.gpus(), name, machine.dev)
    child, _ = holder([device])
    with pytest.raises(BlockingIOError):
        device.lock()
    os.kill(child.pid, number)
    child.join()
    device.lock().close()


def test_a_run_that_is_asked_to_stop_leases_nothing(machine):
    refuse(machine.lease(leave_if_asked=leave_after(-1)), InterruptedRun)
    assert all(map(is_free, machine.gpus()))


def test_the_gpu_is_free_after_the_body_even_if_it_raises(machine):
    gpus = machine.gpus()
    with pytest.raises(KeyError), machine.lease():
        assert [is_free(gpu) for gpu in gpus] == [False, True]
        raise KeyError
    assert all(map(is_free, gpus))


def test_a_child_that_outlives_its_parent_does_not_keep_the_gpu(machine):
    gpu = machine.gpus()[0]
    program = "import time; print('up', flush=True); time.sleep(300)"
    command = [sys.executable, "-c", program]
    with machine.lease():
        # Not even one that inherits all descriptors.
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
    lease = lease_gpu(gpus, leave_if_asked=stay, logger=LOGGER)
    refuse(lease, DeviceError, re.escape(f"{gpus[0].node} cannot be locked (No such"))


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
        assert names == UUIDS
        assert not any(map(is_free, machine.gpus()))


# The environment variables of a worker


def test_a_worker_is_pinned_to_the_leased_gpu(machine, messages):
    with machine.lease("cuda") as variables:
        assert variables == {"CUDA_VISIBLE_DEVICES": UUIDS[0], "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert messages() == [f"leased GPU 0 ({UUIDS[0]}, PCI 0000:3b:00.0)"]


@pytest.mark.parametrize(
    ("rank", "visible", "name"),
    [
        *((rank, None, UUIDS[rank % 2]) for rank in (0, 1, 2, 7)),
        # As drivers before 470 name MIG devices; and mixed with a whole GPU.
        (0, f"{OLD_MIG},{MIGS[0]}", OLD_MIG),
        (1, f"0,{MIGS[0]}", MIGS[0]),
    ],
)
def test_ranks_start_at_different_devices(machine, rank, visible, name):
    with machine.lease(rank=rank, visible=visible) as variables:
        assert variables["CUDA_VISIBLE_DEVICES"] == name


@pytest.mark.parametrize(
    ("visible", "others", "names"),
    [
        ("1", {}, UUIDS[1:]),
        ("2,0", {"rank": 1}, [UUIDS[0], "GPU-cccc"]),
        ("0,1", {"SLURM_JOB_ID": "17"}, UUIDS),
        (",".join(MIGS[:2]), {}, MIGS[:2]),
    ],
)
def test_each_visible_device_has_one_holder(machine, messages, visible, others, names):
    machine.add("0000:e1:00.0", 2, "GPU-cccc")
    with ExitStack() as held:
        for name in names:
            lease = machine.lease(visible=visible, leave_if_asked=leave_after(30), **others)
            variables = held.enter_context(lease)
            assert variables["CUDA_VISIBLE_DEVICES"] == name
            assert name in messages()[-1]
        late = machine.lease(visible=visible, leave_if_asked=leave_after(0.3), **others)
        refuse(late, InterruptedRun)


@pytest.mark.parametrize("asked", ["auto", "cuda"])
@pytest.mark.parametrize("job", ["SLURM_JOB_ID", "LSB_JOBID", "PBS_JOBID"])
@pytest.mark.parametrize("name", ["1", "GPU-aaaa2222", "MIG-1c2d", "9"])
def test_one_device_from_the_scheduler_is_trusted(machine, messages, asked, job, name):
    with machine.lease(asked, visible=name, **{job: "17"}) as variables:
        assert variables == {"CUDA_VISIBLE_DEVICES": name, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        assert all(map(is_free, machine.gpus()))
    (message,) = messages()
    assert f"one device, {name}" in message and "without a lock" in message


@pytest.mark.parametrize("name", ["0", "GPU-aaaa2222", MIGS[0]])
def test_one_device_that_cannot_be_looked_up_is_trusted(bare, messages, name):
    """As in WSL, whose driver has no folder in /proc, and in containers that hide it."""
    with bare.lease("cuda", visible=name) as variables:
        assert variables["CUDA_VISIBLE_DEVICES"] == name
    assert messages()[0].endswith("without a lock")


def test_without_the_control_node_a_mig_device_is_an_error(machine):
    (machine.dev / "nvidiactl").unlink()
    lease = machine.lease(visible=",".join(MIGS))
    refuse(lease, DeviceError, r"nvidiactl cannot be locked \(No such")


# No GPU


@pytest.mark.parametrize("visible", [None, "", "0", "0,1"])
def test_the_cpu_asked_for_needs_no_gpu(machine, messages, visible):
    with machine.lease("cpu", visible=visible) as variables:
        assert variables == {"CUDA_VISIBLE_DEVICES": ""}
        assert all(map(is_free, machine.gpus()))
    assert messages() == []


@pytest.mark.parametrize(
    ("cards", "visible", "reason"),
    [
        (0, None, "the NVIDIA driver lists no GPU in .*nvidia-smi"),
        (0, "0,1", "the NVIDIA driver lists no GPU in "),
        (1, None, "the NVIDIA driver lists 1 GPU in .* no device node opens"),
        (1, "", "CUDA_VISIBLE_DEVICES='' allows no GPU"),
        (1, "-1", "CUDA_VISIBLE_DEVICES='-1' allows no GPU"),
    ],
)
def test_without_a_gpu_auto_takes_the_cpu_and_cuda_is_an_error(
    bare, messages, cards, visible, reason
):
    for minor in range(cards):
        bare.add("0000:01:00.0", minor, "GPU-0", node=visible is not None)
    with bare.lease("auto", visible=visible) as variables:
        assert variables == {"CUDA_VISIBLE_DEVICES": ""}
    (message,) = messages()
    assert re.match(f"no GPU: {reason}.*using the CPU$", message)
    ways_out = "set `device: cpu`.*CUDA_VISIBLE_DEVICES"
    message = f"`device: cuda` is asked for, but {reason}.*{ways_out}"
    refuse(bare.lease("cuda", visible=visible), DeviceError, message)


@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_a_list_that_names_no_gpu_is_an_error(machine, asked):
    message = "'5' names no GPU .*Correct the variable, or unset it to allow all GPUs"
    refuse(machine.lease(asked, visible="0,5"), DeviceError, message)
