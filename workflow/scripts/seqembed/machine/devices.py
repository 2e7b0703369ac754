"""One GPU for one run, held by a lock; where a scheduler hands out GPUs, its choice is used."""

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
    """Hold a device in the body; give the environment variables that tie a worker to it.

    End the worker before leaving the body. Raises DeviceError where "cuda" is asked for and no
    GPU is allowed or there, or where CUDA_VISIBLE_DEVICES names no GPU; and as lease_gpu.
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
        _accept_no_gpu(asked, _why_none(visible, proc), logger)
        yield NO_GPU


@contextmanager
def lease_gpu(
    candidates: Sequence[Device], *, leave_if_asked: Callable[[], None], logger: Logger
) -> Iterator[Device]:
    """Hold the first candidate that is free; wait while other runs hold them all.

    leave_if_asked: called while it waits; what it raises ends the wait. Raises DeviceError where
    there is no candidate or a node cannot be locked.
    """
    if not candidates:
        raise DeviceError("there is no GPU to lease; set `device: cpu` to run without one")
    device, lock = wait_for_lock(
        lambda: _try_lock(candidates), _describe_wait(candidates), leave_if_asked, logger
    )
    # A spawned worker does not inherit this lock: a process that hangs or strays would keep the
    # GPU for ever. The kernel kills the worker as this process dies, which takes an instant; the
    # next holder's worker imports torch, which takes seconds, before it touches the GPU.
    with lock:
        logger.info("leased %s", device)
        yield device


def _try_lock(candidates: Sequence[Device]) -> tuple[Device, FileIO] | None:
    """The first free device, and the open file whose lock holds it; None where none is free."""
    for device in candidates:
        try:
            return device, device.lock()
        except BlockingIOError:
            continue
        except OSError as error:
            message = f"{device.node} cannot be locked ({error.strerror})"
            message = f"{message}; check the card with nvidia-smi, then run again"
            raise DeviceError(message) from error
    return None


def _describe_wait(candidates: Sequence[Device]) -> str:
    count = len(candidates)
    gpus = "GPU" if count == 1 else "GPUs"
    names = ", ".join(map(str, candidates))
    return (
        f"other runs hold the {count} {gpus} allowed here, {names}; with --resources gpu={count} "
        f"no more than {count} jobs start at once"
    )


def _is_trusted(visible: str, environment: EnvConfig, gpus: Sequence[Device]) -> bool:
    """Whether this is the one device of a scheduler's job, or one that cannot be looked up here.

    A scheduler may count devices differently, and may share one on purpose.
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


def _accept_no_gpu(asked: AskedDevice, reason: str, logger: Logger) -> None:
    if asked == "cuda":
        raise DeviceError(
            f"`device: cuda` is asked for, but {reason}; mend that, set `device: cpu` to run "
            "without a GPU, or name one in CUDA_VISIBLE_DEVICES to use it without a lease"
        )
    logger.info("no GPU: %s; using the CPU", reason)
