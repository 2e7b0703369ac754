"""One GPU for one run: found without CUDA, leased by a lock on its device node.

The kernel frees the lock when its holder dies, so nothing is left to clean up. It holds between
all programs that see the same /dev; where a scheduler hands out GPUs, its word counts instead.
"""

from __future__ import annotations

import fcntl
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from logging import Logger
from pathlib import Path
from typing import Literal

from seqembed.environment import EnvConfig
from seqembed.errors import DeviceError, InterruptedRun

AskedDevice = Literal["auto", "cuda", "cpu"]

DRIVER_GPUS = Path("/proc/driver/nvidia/gpus")
DEVICE_NODES = Path("/dev")
POLL_SECONDS = 0.2
REMINDER_SECONDS = 60.0
# What users and Slurm write into CUDA_VISIBLE_DEVICES to say "no GPU".
NO_DEVICE = frozenset({"", "-1", "nodevfiles"})
BUS_ID = re.compile(r"[0-9a-fA-F]+:[0-9a-fA-F]+:[0-9a-fA-F]+\.[0-9a-fA-F]+")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU that this process may open.

    index: its place among those in the order of PCI bus ids, as CUDA counts.
    uuid: "GPU-...", None while the driver does not know it.
    """

    index: int
    uuid: str | None
    minor: int
    bus_id: str
    node: Path

    @property
    def cuda_name(self) -> str:
        """What names this GPU in CUDA_VISIBLE_DEVICES under CUDA_DEVICE_ORDER=PCI_BUS_ID."""
        return self.uuid or str(self.index)

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.uuid or 'UUID not known yet'}, PCI {self.bus_id})"


def find_gpus(proc: Path = DRIVER_GPUS, dev: Path = DEVICE_NODES) -> list[Gpu]:
    """The GPUs whose device nodes can be opened for reading, in the order of PCI bus ids."""
    gpus: list[Gpu] = []
    for folder in _driver_entries(proc):
        gpu = _read_gpu(folder, dev, index=len(gpus))
        if gpu is not None:
            gpus.append(gpu)
    return gpus


def _driver_entries(proc: Path) -> list[Path]:
    folders = [path for path in proc.glob("*") if BUS_ID.fullmatch(path.name)]
    return sorted(folders, key=lambda path: [int(part, 16) for part in re.split("[:.]", path.name)])


def _read_gpu(folder: Path, dev: Path, *, index: int) -> Gpu | None:
    """The GPU of one folder of the driver; None where it is excluded or cannot be opened."""
    try:
        fields = _information(folder)
        minor = int(fields["device minor"])
        node = dev / f"nvidia{minor}"
        if fields.get("gpu excluded", "no").lower() == "yes":
            return None
        with _open(node):
            # Until a card is first opened, the driver prints question marks for its UUID.
            uuid = _information(folder).get("gpu uuid") or "?"
    except (OSError, KeyError, ValueError):
        return None
    known = None if "?" in uuid else uuid
    return Gpu(index=index, uuid=known, minor=minor, bus_id=folder.name, node=node)


def _open(node: Path) -> FileIO:
    # Unbuffered: a buffer would first ask the driver whether it is a terminal.
    return FileIO(node)


def _information(folder: Path) -> dict[str, str]:
    """The driver's "Name: value" lines, names in lower case."""
    text = (folder / "information").read_text(errors="replace")
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def choose_candidates(gpus: Sequence[Gpu], visible_devices: str | None) -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES allows, in its order; all where it is not set.

    Entries are numbers in the order of PCI bus ids, or UUIDs, which may be cut short as long
    as one GPU fits. Raises DeviceError for an entry that does not name one GPU.
    """
    if visible_devices is None:
        return list(gpus)
    if _says_none(visible_devices):
        return []
    named = [_named(gpus, entry.strip()) for entry in visible_devices.split(",")]
    return list(dict.fromkeys(named))


def _says_none(visible_devices: str) -> bool:
    return visible_devices.strip().lower() in NO_DEVICE


def _named(gpus: Sequence[Gpu], entry: str) -> Gpu:
    prefix = entry.lower()
    if entry.isascii() and entry.isdigit():
        fitting = [gpu for gpu in gpus if gpu.index == int(entry)]
    elif prefix.startswith("gpu-"):
        fitting = [gpu for gpu in gpus if gpu.uuid and gpu.uuid.lower().startswith(prefix)]
    else:
        fitting = []
    if len(fitting) == 1:
        return fitting[0]
    problem = f"names {len(fitting)} GPUs" if fitting else "names no GPU"
    there = "; ".join(map(str, gpus)) or "none"
    raise DeviceError(
        f"CUDA_VISIBLE_DEVICES: {entry!r} {problem} of this machine ({there}); "
        "correct it, or unset it to allow all"
    )


@contextmanager
def lease_gpu(
    candidates: Sequence[Gpu], *, interrupted: Callable[[], bool], logger: Logger
) -> Iterator[Gpu]:
    """Hold the first candidate that is free; wait for one while all are held.

    Raises InterruptedRun when `interrupted()` comes true before a GPU is free, DeviceError
    where there is no candidate or a node cannot be locked.
    """
    if not candidates:
        raise DeviceError("there is no GPU to lease; set `device: cpu` to run without one")
    gpu, lock = _wait_for_lock(candidates, interrupted, logger)
    # A spawned worker does not inherit this lock: a process that hangs or strays would keep the
    # GPU for ever. The kernel kills the worker as this process dies, which takes an instant; the
    # next holder's worker imports torch, which takes seconds, before it touches the GPU.
    with lock:
        logger.info("leased %s", gpu)
        yield gpu


def _wait_for_lock(
    candidates: Sequence[Gpu], interrupted: Callable[[], bool], logger: Logger
) -> tuple[Gpu, FileIO]:
    next_message = -math.inf
    while not interrupted():
        for gpu in candidates:
            if lock := _try_lock(gpu.node):
                return gpu, lock
        if time.monotonic() >= next_message:
            names = ", ".join(map(str, candidates))
            logger.info("waiting: other runs hold every GPU allowed here: %s", names)
            next_message = time.monotonic() + REMINDER_SECONDS
        time.sleep(POLL_SECONDS)
    raise InterruptedRun("interrupted while waiting for a free GPU; run again to go on")


def _try_lock(node: Path) -> FileIO | None:
    """The node, opened and locked; None where another holds it."""
    try:
        lock = _open(node)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise
    except BlockingIOError:
        return None
    except OSError as error:
        message = f"{node} cannot be locked ({error.strerror})"
        raise DeviceError(f"{message}; check the card with nvidia-smi, then run again") from error
    return lock


@contextmanager
def lease_device(
    asked: AskedDevice,
    rank: int,
    environment: EnvConfig,
    *,
    interrupted: Callable[[], bool],
    logger: Logger,
    proc: Path = DRIVER_GPUS,
    dev: Path = DEVICE_NODES,
) -> Iterator[dict[str, str]]:
    """Give the environment variables that tie a worker to its device, held while in the body.

    End the worker before leaving the body. Raises DeviceError where "cuda" is asked for and no
    GPU is allowed or there, or CUDA_VISIBLE_DEVICES makes no sense; InterruptedRun as lease_gpu.
    """
    visible = environment.visible_devices
    if asked != "cpu" and visible is not None and _names_one(visible):
        logger.info("CUDA_VISIBLE_DEVICES names one device, %s: used as it is, no lease", visible)
        yield _pinned_to(visible.strip())
    elif candidates := _candidates(asked, visible, logger, proc, dev):
        # Ranks start at different GPUs, so that they do not contend for the first.
        first = rank % len(candidates)
        rotated = candidates[first:] + candidates[:first]
        with lease_gpu(rotated, interrupted=interrupted, logger=logger) as gpu:
            yield _pinned_to(gpu.cuda_name)
    else:
        yield {"CUDA_VISIBLE_DEVICES": ""}


def _candidates(
    asked: AskedDevice, visible_devices: str | None, logger: Logger, proc: Path, dev: Path
) -> list[Gpu]:
    """The GPUs to choose from; none where the CPU is to do the work, and the log says why."""
    if asked == "cpu":
        return []
    gpus = find_gpus(proc, dev)
    candidates = choose_candidates(gpus, visible_devices) if gpus else []
    if not candidates:
        _accept_no_gpu(asked, _why_none(visible_devices, proc), logger)
    return candidates


def _names_one(visible_devices: str) -> bool:
    return "," not in visible_devices and not _says_none(visible_devices)


def _pinned_to(name: str) -> dict[str, str]:
    # In CUDA's own order, fastest first, a number may mean another card than in Slurm's.
    return {"CUDA_VISIBLE_DEVICES": name, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def _why_none(visible_devices: str | None, proc: Path) -> str:
    if visible_devices is not None and _says_none(visible_devices):
        return f"CUDA_VISIBLE_DEVICES={visible_devices!r} allows no GPU (unset it to allow all)"
    if count := len(_driver_entries(proc)):
        return f"the NVIDIA driver lists {count} GPUs in {proc}, and none of their nodes opens"
    return f"the NVIDIA driver lists no GPU in {proc} (`nvidia-smi` tells whether it runs)"


def _accept_no_gpu(asked: AskedDevice, reason: str, logger: Logger) -> None:
    if asked == "cuda":
        raise DeviceError(
            f"`device: cuda` is asked for, and {reason}; mend that, set `device: cpu` to run "
            "without a GPU, or name one in CUDA_VISIBLE_DEVICES to use it without a lease"
        )
    logger.info("no GPU: %s; using the CPU", reason)
