"""What failed in a shard: two files beside its checkpoints.

`failures.json` keeps what was learnt for the runs to come. `in_flight.json` names the batches that
are being computed, so that the next process knows what a crash interrupted.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from seqembed.errors import CheckpointError
from seqembed.storage.json_files import read_json, write_json

FORMAT_VERSION = "1"
FAILURES = "failures.json"
IN_FLIGHT = "in_flight.json"


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A sequence that may be what failed: it is computed in a batch of its own.

    failed: it failed alone already. tries: how often it did so before anything else in a fresh
    process. memory: it ran out of memory.
    """

    reason: str
    failed: bool = False
    tries: int = 0
    memory: bool = False


@dataclass(frozen=True, kw_only=True)
class LoneFailure:
    """A sequence, by hex digest, that failed alone; memory: it ran out of memory."""

    digest: str
    memory: bool


@dataclass(kw_only=True)
class Failures:
    """What a shard's runs learnt.

    token_limit: the most tokens that a batch may hold, None while none ran out of memory.
    suspects: by their row in the shard. quarantined: hex digests of the sequences that are given
    up, with the reason. in_a_row: the sequences that failed alone since the last success.
    """

    token_limit: int | None = None
    suspects: dict[int, Suspect] = field(default_factory=dict)
    quarantined: dict[str, str] = field(default_factory=dict)
    in_a_row: list[LoneFailure] = field(default_factory=list)


def read_failures(folder: Path) -> Failures:
    """A folder's failures, none where no file is; raises CheckpointError for a damaged one."""
    path = folder / FAILURES
    if not os.path.lexists(path):
        return Failures()
    try:
        content = read_json(path, "failures", FORMAT_VERSION)
        return Failures(
            token_limit=content["token_limit"],
            suspects=_read_suspects(content["suspects"]),
            quarantined=_digests_with_reasons(content["quarantined"]),
            in_a_row=[LoneFailure(**failure) for failure in content["doubts"]],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged ({error!r}); remove it") from error


def write_failures(folder: Path, failures: Failures) -> None:
    """Write `failures.json` durably."""
    content = {
        "token_limit": failures.token_limit,
        "suspects": [
            {"first": row, "last": row} | asdict(suspect)
            for row, suspect in failures.suspects.items()
        ],
        "quarantined": failures.quarantined,
        "doubts": [asdict(failure) for failure in failures.in_a_row],
    }
    write_json(folder / FAILURES, "failures", FORMAT_VERSION, content)


def _read_suspects(entries: list[dict[str, Any]]) -> dict[int, Suspect]:
    """Suspects by row. Earlier versions suspected ranges of rows, of which each is one here."""
    found: dict[int, Suspect] = {}
    # What is known of one sequence outweighs what is known of a range around it.
    for entry in sorted(entries, key=lambda entry: bool(entry["first"] < entry["last"])):
        known = {key: value for key, value in entry.items() if key not in ("first", "last")}
        for row in range(entry["first"], entry["last"] + 1):
            found.setdefault(row, Suspect(**known))
    return found


def _digests_with_reasons(content: dict[str, str]) -> dict[str, str]:
    for digest, reason in content.items():
        if len(bytes.fromhex(digest)) != 16 or not isinstance(reason, str):
            raise ValueError(f"{digest!r} is not a digest with a reason")
    return dict(content)


@dataclass(frozen=True, kw_only=True)
class InFlight:
    """The batches that are being computed.

    steps: of each batch, its first and last row in the shard and how many sequences it holds.
    tokens: of the largest batch. pieces: how many windows the last one holds. fresh: the process
    computed nothing before it but suspects, each alone.
    """

    steps: list[tuple[int, int, int]]
    tokens: int
    pieces: int
    fresh: bool


class InFlightFile:
    """`in_flight.json`, rewritten in place before and after each batch.

    It is not synced to disk: it has to outlive the process, not the machine.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / IN_FLIGHT
        self._descriptor: int | None = None
        self._longest = 0

    def write(self, flight: InFlight | None) -> None:
        """Name what is being computed; None for nothing."""
        text = json.dumps(asdict(flight)) if flight else ""
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o666)
        # Blanks cover the rest of a longer text.
        self._longest = max(self._longest, len(text))
        os.pwrite(self._descriptor, text.ljust(self._longest).encode(), 0)

    def remove(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self._path.unlink(missing_ok=True)


def take_in_flight(folder: Path) -> InFlight | None:
    """What the last process was computing when it ended, None for nothing; removes the file."""
    path = folder / IN_FLIGHT
    try:
        flight = InFlight(**json.loads(path.read_text()))
        steps = [(int(first), int(last), int(count)) for first, last, count in flight.steps]
        return replace(flight, steps=steps)
    except (FileNotFoundError, ValueError, TypeError):
        return None
    finally:
        path.unlink(missing_ok=True)
