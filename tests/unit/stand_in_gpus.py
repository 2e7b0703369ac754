"""Stand-in GPUs: a driver's folder and device nodes of our own. Their locks are the real thing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from seqembed.environment import EnvConfig
from seqembed.errors import InterruptedRun
from seqembed.machine.devices import Gpu, find_gpus, lease_device

LOGGER = logging.getLogger("stand_in_gpus")
# As driver 550 prints it, tabs and blanks included.
INFORMATION = """\
Model: \t\t {model}
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


def stay() -> None:
    """No signal came."""


def leave_after(seconds: float) -> Callable[[], None]:
    """As if a signal came after so long."""
    deadline = time.monotonic() + seconds

    def leave_if_asked() -> None:
        if time.monotonic() > deadline:
            raise InterruptedRun("asked to stop")

    return leave_if_asked


class Machine:
    """A driver's folder, device nodes and the control node."""

    def __init__(self, root: Path) -> None:
        self.proc, self.dev = root / "proc", root / "dev"
        self.dev.mkdir(parents=True, exist_ok=True)
        (self.dev / "nvidiactl").touch()

    def add(
        self,
        bus_id: str,
        minor: int,
        uuid: str,
        *,
        node: bool = True,
        excluded: str = "No",
        model: str = "NVIDIA H100 80GB HBM3",
    ) -> None:
        folder = self.proc / bus_id
        folder.mkdir(parents=True)
        fields = {"uuid": uuid, "bus_id": bus_id, "minor": minor, "excluded": excluded}
        text = INFORMATION.format(model=model, **fields)
        (folder / "information").write_text(text)
        if node:
            (self.dev / f"nvidia{minor}").touch()

    def gpus(self) -> list[Gpu]:
        return find_gpus(self.proc, self.dev)

    def lease(
        self,
        asked: str = "auto",
        rank: int = 0,
        visible: str | None = None,
        leave_if_asked: Callable[[], None] = stay,
        **job: str,
    ) -> AbstractContextManager[dict[str, str]]:
        """visible: the value of CUDA_VISIBLE_DEVICES. job: other environment variables."""
        allowed = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        environment = EnvConfig.from_environ(allowed | job)
        others = {"logger": LOGGER, "proc": self.proc, "dev": self.dev}
        return lease_device(asked, rank, environment, leave_if_asked=leave_if_asked, **others)
