"""The GPUs of this machine, found without CUDA, and those that CUDA_VISIBLE_DEVICES allows.

Each GPU has a file that can be locked. The kernel frees a lock when its holder dies, so nothing is
left to clean up, and all programs that see the same /dev share the lock. Files are opened as
FileIO: a buffered file would first ask the driver whether it is a terminal.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from seqembed.errors import DeviceError

DRIVER_GPUS = Path("/proc/driver/nvidia/gpus")
DEVICE_NODES = Path("/dev")
# What users and Slurm write into CUDA_VISIBLE_DEVICES to say "no GPU".
NO_DEVICE = frozenset({"", "-1", "nodevfiles"})
BUS_ID = re.compile(r"[0-9a-fA-F]+:[0-9a-fA-F]+:[0-9a-fA-F]+\.[0-9a-fA-F]+")
# Of MIG devices, today's and that of drivers before 470, as nvidia-smi -L prints them.
UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
MIG_NAME = re.compile(rf"MIG-({UUID}|GPU-{UUID}/[0-9]+/[0-9]+)")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU that this process may open.

    index: the GPU's number in the order of PCI bus ids, as CUDA counts. uuid: "GPU-...", None while
    the driver does not know the UUID. minor: the number in the device node's name.
    """

    index: int
    uuid: str | None
    minor: int
    bus_id: str
    node: Path

    @property
    def cuda_name(self) -> str:
        """The GPU's name in CUDA_VISIBLE_DEVICES under CUDA_DEVICE_ORDER=PCI_BUS_ID."""
        return self.uuid or str(self.index)

    def lock(self) -> FileIO:
        """Return the open device node, locked until closed; BlockingIOError if another holds it."""
        return _lock(FileIO(self.node), fcntl.flock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.uuid or 'UUID not known yet'}, PCI {self.bus_id})"


@dataclass(frozen=True, kw_only=True)
class MigDevice:
    """A part of a GPU, known by its name only: which part it is, NVIDIA's own library knows.

    A part has no node: its lock is a byte of the driver's control node, chosen by the name.
    """

    cuda_name: str
    node: Path

    def lock(self) -> FileIO:
        """Return the open control node, its byte locked until closed; raises as Gpu.lock."""
        digest = hashlib.blake2b(self.cuda_name.encode(), digest_size=8).digest()
        # One byte among 2**62, as a struct flock (fcntl.h).
        byte = int.from_bytes(digest, "little") >> 2
        range_ = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        # The kernel locks a range for writing only where the file is open for writing.
        return _lock(FileIO(self.node, "r+"), fcntl.fcntl, fcntl.F_OFD_SETLK, range_)

    def __str__(self) -> str:
        return self.cuda_name


Device = Gpu | MigDevice


def _lock(file: FileIO, lock: Callable[..., object], *arguments: object) -> FileIO:
    """Return the file, locked by `lock(file, *arguments)`; closes the file if that raises."""
    try:
        lock(file, *arguments)
    except OSError:
        file.close()
        raise
    return file


def find_gpus(proc: Path = DRIVER_GPUS, dev: Path = DEVICE_NODES) -> list[Gpu]:
    """Return the GPUs whose device nodes open for reading, in the order of PCI bus ids."""
    gpus: list[Gpu] = []
    for folder in driver_entries(proc):
        # An excluded card, or one whose node does not open, is not counted.
        with suppress(OSError, KeyError, ValueError):
            gpus += _read_gpu(folder, dev, len(gpus))
    return gpus


def driver_entries(proc: Path) -> list[Path]:
    """Return the driver's folder of each GPU, in the order of PCI bus ids."""
    folders = [path for path in proc.glob("*") if BUS_ID.fullmatch(path.name)]
    return sorted(folders, key=lambda path: [int(part, 16) for part in re.split("[:.]", path.name)])


def _read_gpu(folder: Path, dev: Path, index: int) -> list[Gpu]:
    """Return the GPU of one folder of the driver; none if the card is excluded."""
    fields = _information(folder)
    minor = int(fields["device minor"])
    if fields.get("gpu excluded", "no").lower() == "yes":
        return []
    with FileIO(node := dev / f"nvidia{minor}"):
        # Until a card is first opened, the driver prints question marks for its UUID.
        uuid = _information(folder).get("gpu uuid") or "?"
    known = None if "?" in uuid else uuid
    return [Gpu(index=index, uuid=known, minor=minor, bus_id=folder.name, node=node)]


def _information(folder: Path) -> dict[str, str]:
    """Return the driver's "Name: value" lines, names in lower case."""
    text = (folder / "information").read_text(errors="replace")
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def choose_candidates(
    gpus: Sequence[Gpu], visible_devices: str | None, dev: Path = DEVICE_NODES
) -> list[Device]:
    """Return the devices that CUDA_VISIBLE_DEVICES allows, in that order; None allows all GPUs.

    An entry is a number in the order of PCI bus ids; a UUID, or as much of its beginning as fits
    one GPU only; or the whole name of a MIG device. Raises DeviceError for any other entry.
    """
    if visible_devices is None:
        return list(gpus)
    if says_none(visible_devices):
        return []
    entries = [entry.strip() for entry in visible_devices.split(",")]
    return list(dict.fromkeys(_named(gpus, entry, dev) for entry in entries))


def says_none(visible_devices: str) -> bool:
    """Whether this value of CUDA_VISIBLE_DEVICES allows no GPU."""
    return visible_devices.strip().lower() in NO_DEVICE


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
    whole = "; a MIG device needs its whole name" if prefix.startswith("mig") else ""
    raise DeviceError(
        f"CUDA_VISIBLE_DEVICES: {entry!r} {problem} of this machine ({there}{whole}); "
        "correct it, or unset it to allow all"
    )
