"""Records of a checkpoint: three JSON files beside the blocks in its folder.

`manifest.json` says which recipe and which shard the blocks belong to. `failures.json` keeps what
later runs need to know of failures. `in_flight.json` names the batches that are being computed:
after a crash, the next process reads there which batches were interrupted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from seqembed.checkpoints.blocks import DAMAGE
from seqembed.errors import CheckpointError
from seqembed.index.parquet import Digests
from seqembed.storage.digests import DigestIndex, from_hex
from seqembed.storage.json_files import read_json, write_json

FORMAT_VERSION = "1"
MANIFEST = "manifest.json"
FAILURES = "failures.json"
IN_FLIGHT = "in_flight.json"
FILES = (MANIFEST, FAILURES, IN_FLIGHT)


@dataclass(frozen=True, kw_only=True)
class CheckpointManifest:
    """The recipe and the shard of a checkpoint, and the token budget of its batch plan.

    Fingerprints and weights_sha256: hex. model: the model's name. width: D, the number of values of
    a row. recipe: its fields by name. device_name: the GPUs that computed the shard; "" for a CPU.
    licence: of the weights, if it forbids commercial use; otherwise "".
    Raises CheckpointError for a token budget under 1 or no int.
    """

    rank: int
    world_size: int
    recipe_fingerprint: str
    shard_fingerprint: str
    token_budget: int
    model: str
    weights_sha256: str
    width: int
    recipe: Mapping[str, str | int]
    device_name: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        if type(self.token_budget) is not int or self.token_budget < 1:
            found = f"token_budget is {self.token_budget!r}"
            raise CheckpointError(f"{found}, not a whole number of at least 1")

    @property
    def remarks(self) -> dict[str, str]:
        """The fields for the shard's attributes that not every shard has."""
        found = {"device_name": self.device_name, "licence": self.licence}
        return {name: value for name, value in found.items() if value}


def write_manifest(folder: Path, manifest: CheckpointManifest) -> None:
    content = {name: value for name, value in asdict(manifest).items() if value != ""}
    write_json(folder / MANIFEST, "checkpoint", FORMAT_VERSION, content)


def read_manifest(folder: Path) -> CheckpointManifest | None:
    """Return the manifest in `folder`, None if the file is missing; CheckpointError if damaged."""
    path = folder / MANIFEST
    if not os.path.lexists(path):
        return None
    try:
        content = read_json(path, "checkpoint", FORMAT_VERSION)
        return CheckpointManifest(
            **{n: content[n] for n in CheckpointManifest.__dataclass_fields__ if n in content}
        )
    except (CheckpointError, *DAMAGE) as error:
        raise CheckpointError(f"{path}: damaged manifest ({error!r}); remove it") from error


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A sequence that may have caused a failure, and is computed alone: in a batch of its own.

    reason: the message of that failure. failed: whether the sequence has failed alone. tries: how
    often the sequence failed alone in a process that had computed only suspects. memory: whether
    memory ran out when the sequence failed alone.
    """

    reason: str
    failed: bool = False
    tries: int = 0
    memory: bool = False


@dataclass(kw_only=True)
class Failures:
    """The failures of a shard's runs.

    token_limit: the most tokens that a batch may hold, None if no batch ran out of memory.
    suspects: by their rows in the shard. quarantined: by the hex digest of each sequence that is
    given up, the reason. in_a_row: by the hex digest of each sequence that failed alone since the
    last success, whether memory ran out.
    """

    token_limit: int | None = None
    suspects: dict[int, Suspect] = field(default_factory=dict)
    quarantined: dict[str, str] = field(default_factory=dict)
    in_a_row: dict[str, bool] = field(default_factory=dict)


def read_failures(folder: Path) -> Failures:
    """Return the failures in `folder`, none if the file is missing; CheckpointError if damaged."""
    path = folder / FAILURES
    if not os.path.lexists(path):
        return Failures()
    try:
        content = read_json(path, "failures", FORMAT_VERSION)
        for digest, reason in content["quarantined"].items():
            if len(bytes.fromhex(digest)) != 16 or not isinstance(reason, str):
                raise ValueError(f"{digest!r} is not a hex digest, or its reason is not text")
        return Failures(
            token_limit=content["token_limit"],
            suspects=_read_suspects(content["suspects"]),
            quarantined=content["quarantined"],
            in_a_row={failed["digest"]: failed["memory"] for failed in content["doubts"]},
        )
    except (AttributeError, *DAMAGE) as error:
        raise CheckpointError(f"{path}: damaged ({error!r}); remove it") from error


def write_failures(folder: Path, failures: Failures) -> None:
    content = {
        "token_limit": failures.token_limit,
        "suspects": [{"first": n, "last": n} | asdict(s) for n, s in failures.suspects.items()],
        "quarantined": failures.quarantined,
        "doubts": [{"digest": d, "memory": memory} for d, memory in failures.in_a_row.items()],
    }
    write_json(folder / FAILURES, "failures", FORMAT_VERSION, content)


def forget_quarantined(folder: Path, digests: Digests) -> None:
    """Drop sequences that have a row now from the quarantine in `folder`; digests: (n, 16) uint8.

    Raises CheckpointError if the file is damaged.
    """
    failures = read_failures(folder)
    names = [*failures.quarantined]
    rows = DigestIndex(from_hex(names)).find_in(digests)
    if held := [name for name, row in zip(names, rows, strict=True) if row >= 0]:
        for name in held:
            del failures.quarantined[name]
        write_failures(folder, failures)


def _read_suspects(entries: list[dict[str, Any]]) -> dict[int, Suspect]:
    """Return suspects by row. An entry is of rows `first` to `last`, in new files of one row."""
    found: dict[int, Suspect] = {}
    # If a row has an entry of its own and lies in a range, too, the entry of its own counts.
    for entry in sorted(entries, key=lambda entry: bool(entry["first"] < entry["last"])):
        for row in range(entry.pop("first"), entry.pop("last") + 1):
            found.setdefault(row, Suspect(**entry))
    return found


@dataclass(frozen=True, kw_only=True)
class InFlight:
    """The batches that a process is computing.

    steps: for each batch, its lowest and highest row in the shard and its number of sequences.
    tokens: the number of tokens of the largest batch. pieces: the number of windows of the batch
    that began last. fresh: the process has computed only suspects, each in a batch of its own.
    """

    steps: list[tuple[int, int, int]]
    tokens: int
    pieces: int
    fresh: bool


class InFlightFile:
    """The file `in_flight.json` in `folder`, rewritten in place before and after each batch.

    The file is not synced to disk: it has to outlive a crash of the process, not of the machine.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / IN_FLIGHT
        self._descriptor: int | None = None
        self._longest = 0

    def take(self) -> InFlight | None:
        """Remove the file; return what the last process was computing at its end; None: unknown."""
        try:
            flight = InFlight(**json.loads(self._path.read_text()))
            flight.steps[:] = [(int(a), int(b), int(n)) for a, b, n in flight.steps]
            return flight
        except (FileNotFoundError, ValueError, TypeError):
            return None
        finally:
            self._path.unlink(missing_ok=True)

    def write(self, flight: InFlight | None) -> None:
        """Write which batches are being computed; `flight` None: no batch is."""
        text = json.dumps(vars(flight)) if flight else ""
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
