"""The steps that are on their way, told to a file that outlives the process."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

IN_FLIGHT = "in_flight.json"


@dataclass(frozen=True, kw_only=True)
class InFlight:
    """Steps: the first and the last row of each in the shard, and how many sequences it holds.

    tokens: of the largest step. pieces: of the last one. fresh: nothing but suspects, each alone,
    went before that.
    """

    steps: list[tuple[int, int, int]]
    tokens: int
    pieces: int
    fresh: bool


class InFlightFile:
    """Tells, before each step, what is at work, so that it is known after a crash of the process.

    It is not made durable: after a crash of the machine nobody is to blame.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / IN_FLIGHT
        self._descriptor: int | None = None
        self._longest = 0

    def tell(self, flight: InFlight | None) -> None:
        """Say what is at work; None when all is done."""
        text = json.dumps(asdict(flight)) if flight else ""
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o666)
        # Written over and over in place: what is left of a longer text is blank.
        self._longest = max(self._longest, len(text))
        os.pwrite(self._descriptor, text.ljust(self._longest).encode(), 0)

    def close(self) -> None:
        """Remove the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self._path.unlink(missing_ok=True)


def take_in_flight(folder: Path) -> InFlight | None:
    """What the last process was at when it ended, None for nothing; the file is removed."""
    path = folder / IN_FLIGHT
    try:
        content = json.loads(path.read_text())
        found = InFlight(**content)
        steps = [(int(first), int(last), int(count)) for first, last, count in found.steps]
    except (FileNotFoundError, ValueError, TypeError):
        return None
    finally:
        path.unlink(missing_ok=True)
    return InFlight(steps=steps, tokens=found.tokens, pieces=found.pieces, fresh=found.fresh)
