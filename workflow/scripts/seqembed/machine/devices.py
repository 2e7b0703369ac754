"""One GPU for one run, leased by its lock; where a scheduler hands out GPUs, its word counts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from logging import Logger
from pathlib import Path
from typing import Literal

from seqembed.environment import EnvConfig
from seqembed.errors import DeviceError, InterruptedRun
from seqembed.machine.gpus import (
    DEVICE_NODES,
    DRIVER_GPUS,
    Device,
    choose_candidates,
    driver_entries,
    find_gpus,
    says_none,
)

AskedDevice = Literal["auto", "cuda", "cpu"]

NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
POLL_SECONDS = 0.2
REMINDER_SECONDS = 60.0


@contextmanager
def lease_gpu(
    candidates: Sequence[Device], *, interrupted: Callable[[], bool], logger: Logger
) -> Iterator[Device]:
    """Hold the first candidate that is free; wait for one while all are held.

    Raises InterruptedRun when `interrupted()` comes true before a GPU is free, DeviceError
    where there is no candidate or a node cannot be locked.
    """
    if not candidates:
        raise DeviceError("there is no GPU to lease; set `device: cpu` to run without one")
    device, lock = _wait_for_lock(candidates, interrupted, logger)
    # A spawned worker does not inherit this lock: a process that hangs or strays would keep the
    # GPU for ever. The kernel kills the worker as this process dies, which takes an instant; the
    # next holder's worker imports torch, which takes seconds, before it touches the GPU.
    with lock:
        logger.info("leased %s", device)
        yield device


def _wait_for_lock(
    candidates: Sequence[Device], interrupted: Callable[[], bool], logger: Logger
) -> tuple[Device, FileIO]:
    next_message = -math.inf
    while not interrupted():
        for device in candidates:
            if lock := _try_lock(device):
                return device, lock
        if time.monotonic() >= next_message:
            logger.info(_describe_wait(candidates))
            next_message = time.monotonic() + REMINDER_SECONDS
        time.sleep(POLL_SECONDS)
    raise InterruptedRun("interrupted while waiting for a free GPU; run again to go on")


def _describe_wait(candidates: Sequence[Device]) -> str:
    count = len(candidates)
    gpus = "GPU" if count == 1 else "GPUs"
    names = ", ".join(map(str, candidates))
    return (
        f"waiting: other runs hold the {count} {gpus} allowed here, {names}; jobs beyond that take "
        f"turns: with --resources gpu={count} no more of them start at once"
    )


def _try_lock(device: Device) -> FileIO | None:
    """The open file whose lock holds the device; None where another holds it."""
    try:
        return device.lock()
    except BlockingIOError:
        return None
    except OSError as error:
        message = f"{device.node} cannot be locked ({error.strerror})"
        raise DeviceError(f"{message}; check the card with nvidia-smi, then run again") from error


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
    if asked == "cpu":
        yield NO_GPU
        return
    gpus, visible = find_gpus(proc, dev), environment.visible_devices
    if visible is not None and _is_trusted(visible, environment, gpus):
        logger.info("CUDA_VISIBLE_DEVICES names one device, %s: used as it is, no lease", visible)
        yield _pinned_to(visible.strip())
    elif candidates := choose_candidates(gpus, visible, dev) if gpus else []:
        # Ranks start at different GPUs, so that they do not contend for the first.
        first = rank % len(candidates)
        rotated = candidates[first:] + candidates[:first]
        with lease_gpu(rotated, interrupted=interrupted, logger=logger) as device:
            yield _pinned_to(device.cuda_name)
    else:
        _accept_no_gpu(asked, _why_none(visible, proc), logger)
        yield NO_GPU


def _is_trusted(visible: str, environment: EnvConfig, gpus: Sequence[Device]) -> bool:
    """Whether this is the one device of a scheduler's job, or one that nobody here can look up.

    A scheduler may count devices otherwise than we see them, and may share one on purpose.
    """
    names_one = "," not in visible and not says_none(visible)
    return names_one and (environment.in_scheduler_job or not gpus)


def _pinned_to(name: str) -> dict[str, str]:
    # In CUDA's own order, fastest first, a number may mean another card than in Slurm's.
    return {"CUDA_VISIBLE_DEVICES": name, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def _why_none(visible_devices: str | None, proc: Path) -> str:
    if visible_devices is not None and says_none(visible_devices):
        return f"CUDA_VISIBLE_DEVICES={visible_devices!r} allows no GPU (unset it to allow all)"
    if count := len(driver_entries(proc)):
        return f"the NVIDIA driver lists {count} GPUs in {proc}, and none of their nodes opens"
    return f"the NVIDIA driver lists no GPU in {proc} (`nvidia-smi` tells whether it runs)"


def _accept_no_gpu(asked: AskedDevice, reason: str, logger: Logger) -> None:
    if asked == "cuda":
        raise DeviceError(
            f"`device: cuda` is asked for, and {reason}; mend that, set `device: cpu` to run "
            "without a GPU, or name one in CUDA_VISIBLE_DEVICES to use it without a lease"
        )
    logger.info("no GPU: %s; using the CPU", reason)
