"""One GPU for one run, held by a lock; if a scheduler hands out GPUs, its choice is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from logging import Logger
from pathlib import Path
from typing import Literal

from seqembed.environment import EnvConfig
from seqembed.errors import DeviceError
from seqembed.machine.gpus import (
    DEVICE_NODES,
    DRIVER_GPUS,
    Device,
    choose_candidates,
    driver_entries,
    find_gpus,
    says_none,
)
from seqembed.storage.locks import wait_for_lock

AskedDevice = Literal["auto", "cuda", "cpu"]

NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


@contextmanager
def lease_device(
    asked: AskedDevice,
    rank: int,
    environment: EnvConfig,
    *,
    leave_if_asked: Callable[[], None],
    logger: Logger,
    proc: Path = DRIVER_GPUS,
    dev: Path = DEVICE_NODES,
) -> Iterator[dict[str, str]]:
    """Hold a device in the body; give the environment variables that tie a worker to the device.

    End the worker before leaving the body. Raises DeviceError if "cuda" is asked for and no GPU is
    allowed or there, or if CUDA_VISIBLE_DEVICES names an unknown one; and as lease_gpu.
    """
    if asked == "cpu":
        yield NO_GPU
        return
    gpus, visible = find_gpus(proc, dev), environment.visible_devices
    if visible is not None and _is_trusted(visible, environment, gpus):
        logger.info("CUDA_VISIBLE_DEVICES names one device, %s: used as it is, no lease", visible)
        yield _pin(visible.strip())
    elif candidates := choose_candidates(gpus, visible, dev) if gpus else []:
        # Ranks start at different GPUs, so that they do not contend for the first.
        first = rank % len(candidates)
        rotated = candidates[first:] + candidates[:first]
        with lease_gpu(rotated, leave_if_asked=leave_if_asked, logger=logger) as device:
            yield _pin(device.cuda_name)
    else:
        reason = _why_none(visible, proc)
        if asked == "cuda":
            raise DeviceError(
                f"`device: cuda` is asked for, but {reason}; correct that, set `device: cpu` to "
                "run without a GPU, or name one in CUDA_VISIBLE_DEVICES to use it without a lease"
            )
        logger.info("no GPU: %s; using the CPU", reason)
        yield NO_GPU


@contextmanager
def lease_gpu(
    candidates: Sequence[Device], *, leave_if_asked: Callable[[], None], logger: Logger
) -> Iterator[Device]:
    """Hold the first candidate that is free; wait while other runs hold them all.

    candidates: one at least. leave_if_asked: called during the wait, which ends if it raises.
    Raises DeviceError if a candidate's node cannot be locked.
    """
    count, names = len(candidates), ", ".join(map(str, candidates))
    message = (
        f"other runs hold the {count} {'GPU' if count == 1 else 'GPUs'} allowed here, {names}; "
        f"with --resources gpu={count} no more than {count} jobs start at once"
    )
    device, lock = wait_for_lock(lambda: _try_lock(candidates), message, leave_if_asked, logger)
    # A spawned worker does not inherit this lock: one that hangs would keep the GPU for ever. The
    # kernel kills the worker as this process dies, which takes an instant; the worker of the next
    # holder imports torch first, which takes seconds, before it touches the GPU.
    with lock:
        logger.info("leased %s", device)
        yield device


def _try_lock(candidates: Sequence[Device]) -> tuple[Device, FileIO] | None:
    """Return the first free device and the open file whose lock holds it; None: none is free."""
    for device in candidates:
        try:
            return device, device.lock()
        except BlockingIOError:
            continue
        except OSError as error:
            message = f"{device.node} cannot be locked ({error.strerror}); check the card with"
            raise DeviceError(f"{message} nvidia-smi, then run again") from error
    return None


def _is_trusted(visible: str, environment: EnvConfig, gpus: Sequence[Device]) -> bool:
    """Whether `visible` is a scheduler's one device for this job, or cannot be looked up here.

    A scheduler may count devices in another way, and may share one on purpose.
    """
    names_one = "," not in visible and not says_none(visible)
    return names_one and (environment.in_scheduler_job or not gpus)


def _pin(name: str) -> dict[str, str]:
    # In CUDA's own order, fastest first, a number may mean another card than in Slurm's.
    return {"CUDA_VISIBLE_DEVICES": name, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def _why_none(visible_devices: str | None, proc: Path) -> str:
    if visible_devices is not None and says_none(visible_devices):
        return f"CUDA_VISIBLE_DEVICES={visible_devices!r} allows no GPU (unset it to allow all)"
    if count := len(driver_entries(proc)):
        return f"the NVIDIA driver lists {count} GPUs in {proc}, but none of their nodes opens"
    return f"the NVIDIA driver lists no GPU in {proc} (`nvidia-smi` says whether it runs)"
