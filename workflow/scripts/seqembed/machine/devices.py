"""Lease one GPU to one run with a file lock; if a scheduler chose a GPU, use that GPU.

The GPUs of this machine are found without CUDA, and each has a device node that can be locked. The
kernel frees a lock when its holder dies, so that nothing is left to clean up, and all programs that
see the same /dev share the lock. Nodes are opened as FileIO: a buffered file would first ask the
driver whether the node is a terminal.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from logging import Logger
from pathlib import Path
from typing import Literal

from seqembed.environment import EnvConfig
from seqembed.errors import DeviceError, count_of
from seqembed.storage.locks import wait_for_lock

NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
# CUDA's own order is fastest first: there, a number may mean another card than in Slurm.
IN_BUS_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
DRIVER_GPUS = Path("/proc/driver/nvidia/gpus")
DEVICE_NODES = Path("/dev")
BUS_ID = re.compile(r"[0-9a-fA-F]+:[0-9a-fA-F]+:[0-9a-fA-F]+\.[0-9a-fA-F]+")
# The names of MIG devices as `nvidia-smi -L` prints them; the longer form is older than driver 470.
UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
MIG_NAME = re.compile(rf"MIG-({UUID}|GPU-{UUID}/[0-9]+/[0-9]+)")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU whose device node this process may open.

    index: the GPU's number, from 0, in the order of PCI bus ids. uuid: "GPU-...", None if the
    driver does not know the UUID yet. bus_id: the PCI bus id. node: the device node.
    """

    index: int
    uuid: str | None
    bus_id: str
    node: Path

    @property
    def cuda_name(self) -> str:
        """The GPU's name in CUDA_VISIBLE_DEVICES under CUDA_DEVICE_ORDER=PCI_BUS_ID."""
        return self.uuid or str(self.index)

    def lock(self) -> FileIO:
        """Return the open device node, which is locked until the returned file is closed.

        Raises BlockingIOError if another process holds the lock, OSError if locking fails.
        """
        return _lock(FileIO(self.node), fcntl.flock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.uuid or 'UUID not known yet'}, PCI {self.bus_id})"


@dataclass(frozen=True, kw_only=True)
class MigDevice:
    """A MIG device: a part of a GPU, known here only by its name in CUDA_VISIBLE_DEVICES.

    A MIG device has no device node. The lock is one byte of `node`, the driver's control node; the
    byte's offset is computed from the name.
    """

    cuda_name: str
    node: Path

    def lock(self) -> FileIO:
        """Return the open control node; until that file is closed, the device's byte is locked.

        Raises BlockingIOError if another process holds the lock, OSError if locking fails.
        """
        digest = hashlib.blake2b(self.cuda_name.encode(), digest_size=8).digest()
        # The offset is one of 2**62; the lock is described as a struct flock (fcntl.h).
        byte = int.from_bytes(digest, "little") >> 2
        range_ = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        # The kernel gives a write lock on bytes only if the file is open for writing.
        return _lock(FileIO(self.node, "r+"), fcntl.fcntl, fcntl.F_OFD_SETLK, range_)

    def __str__(self) -> str:
        return self.cuda_name


Device = Gpu | MigDevice


def _lock(file: FileIO, lock: Callable[..., object], *arguments: object) -> FileIO:
    try:
        lock(file, *arguments)
    except OSError:
        file.close()
        raise
    return file


def find_gpus(proc: Path = DRIVER_GPUS, dev: Path = DEVICE_NODES) -> list[Gpu]:
    """Return the GPUs listed in `proc` whose nodes in `dev` can be opened, by PCI bus id."""
    gpus: list[Gpu] = []
    for folder in driver_entries(proc):
        # A GPU that the driver excludes, or whose node does not open, is left out.
        with suppress(OSError, KeyError, ValueError):
            fields = _information(folder)
            node = dev / f"nvidia{int(fields['device minor'])}"
            if fields.get("gpu excluded", "no").lower() == "yes":
                continue
            with FileIO(node):
                # Until a GPU is first opened, the driver prints question marks for its UUID.
                uuid = _information(folder).get("gpu uuid") or "?"
            known = None if "?" in uuid else uuid
            gpus.append(Gpu(index=len(gpus), uuid=known, bus_id=folder.name, node=node))
    return gpus


def name_device(device: Device, proc: Path = DRIVER_GPUS) -> str:
    """Return a GPU's model, such as "NVIDIA H200"; "" of a MIG device, which is not in `proc`."""
    if isinstance(device, Gpu):
        with suppress(OSError, KeyError):
            return _information(proc / device.bus_id)["model"]
    return ""


def driver_entries(proc: Path) -> list[Path]:
    """Return the driver's folders in `proc`, one for each GPU, in the order of PCI bus ids."""
    folders = [path for path in proc.glob("*") if BUS_ID.fullmatch(path.name)]
    return sorted(folders, key=lambda path: [int(part, 16) for part in re.split("[:.]", path.name)])


def _information(folder: Path) -> dict[str, str]:
    """Return a GPU's "Name: value" lines from the driver, with names in lower case."""
    text = (folder / "information").read_text(errors="replace")
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def choose_candidates(
    gpus: Sequence[Gpu], visible_devices: str | None, dev: Path = DEVICE_NODES
) -> list[Device]:
    """Return the devices that CUDA_VISIBLE_DEVICES names, in its order; all GPUs if it is None.

    An entry is a GPU's number in the order of PCI bus ids; a UUID, or a beginning that only one
    GPU's UUID has; or the whole name of a MIG device. dev: the folder of device nodes. Raises
    DeviceError for any other entry.
    """
    if visible_devices is None:
        return list(gpus)
    if says_none(visible_devices):
        return []
    entries = [entry.strip() for entry in visible_devices.split(",")]
    return list(dict.fromkeys(_named(gpus, entry, dev) for entry in entries))


def says_none(visible_devices: str) -> bool:
    """Whether this value of CUDA_VISIBLE_DEVICES, from a user or from Slurm, allows no GPU."""
    return visible_devices.strip().lower() in ("", "-1", "nodevfiles")


def _named(gpus: Sequence[Gpu], entry: str, dev: Path) -> Device:
    if MIG_NAME.fullmatch(entry):
        return MigDevice(cuda_name=entry, node=dev / "nvidiactl")
    prefix = entry.lower()
    number = int(entry) if entry.isascii() and entry.isdigit() else None
    fitting = [gpu for gpu in gpus if gpu.index == number]
    if prefix.startswith("gpu-"):
        fitting = [gpu for gpu in gpus if gpu.uuid and gpu.uuid.lower().startswith(prefix)]
    if len(fitting) == 1:
        return fitting[0]
    problem = f"names {len(fitting)} GPUs" if fitting else "names no GPU"
    there = "; ".join(map(str, gpus)) or "none"
    whole = ". A MIG device needs its whole name" if prefix.startswith("mig") else ""
    raise DeviceError(
        f"CUDA_VISIBLE_DEVICES: {entry!r} {problem} of this machine, which has: {there}{whole}. "
        "Correct the variable, or unset it to allow all GPUs"
    )


@contextmanager
def lease_device(
    asked: Literal["auto", "cuda", "cpu"],
    rank: int,
    environment: EnvConfig,
    *,
    leave_if_asked: Callable[[], None],
    logger: Logger,
    proc: Path = DRIVER_GPUS,
    dev: Path = DEVICE_NODES,
) -> Iterator[dict[str, str]]:
    """Hold a device during the `with` block; yield the variables that tie a worker to the device.

    The caller ends the worker within the block. asked: if no GPU is found or allowed, "auto" takes
    the CPU, and "cuda" raises DeviceError. rank: ranks try GPUs in different orders.
    leave_if_asked: called while all GPUs are held; the wait ends if the call raises. proc, dev: as
    in find_gpus. An unknown device in CUDA_VISIBLE_DEVICES, or a GPU that cannot be locked, raises
    DeviceError, too.
    """
    if asked == "cpu":
        yield NO_GPU
        return
    gpus, visible = find_gpus(proc, dev), environment.visible_devices
    # A scheduler may number devices in another way, and may give one device to several jobs.
    trusted = environment.in_scheduler_job or not gpus
    if visible and trusted and "," not in visible and not says_none(visible):
        logger.info(
            "CUDA_VISIBLE_DEVICES names one device, %s, which is used without a lock", visible
        )
        yield IN_BUS_ORDER | {"CUDA_VISIBLE_DEVICES": visible.strip()}
    elif candidates := choose_candidates(gpus, visible, dev) if gpus else []:
        # Ranks start at different GPUs, so that they do not all try to lock the same GPU first.
        first = rank % len(candidates)
        rotated = candidates[first:] + candidates[:first]
        with lease_gpu(rotated, leave_if_asked=leave_if_asked, logger=logger) as device:
            yield IN_BUS_ORDER | {"CUDA_VISIBLE_DEVICES": device.cuda_name}
    else:
        reason = _why_none(visible, proc)
        if asked == "cuda":
            raise DeviceError(
                f"`device: cuda` is asked for, but {reason}; mend this, or set `device: cpu` to "
                "run without a GPU. If there is a GPU all the same, name it in CUDA_VISIBLE_DEVICES"
            )
        logger.info("no GPU: %s; using the CPU", reason)
        yield NO_GPU


@contextmanager
def lease_gpu(
    candidates: Sequence[Device], *, leave_if_asked: Callable[[], None], logger: Logger
) -> Iterator[Device]:
    """Hold and yield the first candidate that is free; wait while other runs hold all of them.

    candidates: at least one. leave_if_asked: called during the wait, which ends if the call raises.
    Raises DeviceError if a candidate's node cannot be locked.
    """
    count, names = len(candidates), ", ".join(map(str, candidates))
    message = (
        f"other runs hold the {'GPU' if count == 1 else f'{count} GPUs'} allowed here, {names}; "
        f"with --resources gpu={count} Snakemake starts at most {count_of(count, 'job')} at once"
    )
    device, lock = wait_for_lock(lambda: _try_lock(candidates), message, leave_if_asked, logger)
    # A spawned worker does not inherit this lock: a worker that hangs would keep the GPU for ever.
    # When this process dies, the kernel frees the lock and kills the worker within an instant; the
    # worker of the next run imports PyTorch for seconds before it touches the GPU.
    with lock:
        logger.info("leased %s", device)
        yield device


def _try_lock(candidates: Sequence[Device]) -> tuple[Device, FileIO] | None:
    for device in candidates:
        try:
            return device, device.lock()
        except BlockingIOError:
            continue
        except OSError as error:
            message = f"{device.node} cannot be locked ({error.strerror}); check the card with"
            raise DeviceError(f"{message} `nvidia-smi`, then run again") from error
    return None


def _why_none(visible_devices: str | None, proc: Path) -> str:
    if visible_devices is not None and says_none(visible_devices):
        return f"CUDA_VISIBLE_DEVICES={visible_devices!r} allows no GPU (unset it to allow all)"
    if count := len(driver_entries(proc)):
        found = count_of(count, "GPU")
        return f"the NVIDIA driver lists {found} in {proc}, but no device node opens"
    return f"the NVIDIA driver lists no GPU in {proc} (`nvidia-smi` says whether the driver runs)"
