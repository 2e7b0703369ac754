"""How fast workers were: a small file of figures for each worker, from which `plan` takes times.

`resources/speeds/{model}/{dataset}_{rank}.json` describes the last run of that worker. The next run
replaces it. No PyTorch is needed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from seqembed.storage.json_files import read_json, write_json

FORMAT_VERSION = "1"
KIND = "speed"
# A shorter run says little of the speed: the first batches take longer than later ones.
ENOUGH_SECONDS = 5.0

_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
}


@dataclass(frozen=True, kw_only=True)
class SpeedRecord:
    """What one worker computed in one run, and how long that took.

    weights, layer, pooling, precision, storage, per_residue, long_sequences, max_length, kernels:
    of the recipe. device: "cpu" or "cuda". device_name: the name of the processor or of the card.
    threads: how many CPU threads the worker used. sequences, tokens: how many were computed; tokens
    as the model reads them, special ones included. cost: the sum of LengthPolicy.costs() over these
    sequences. seconds: from the begin of the first batch to the end of the last. start_seconds:
    from the worker's begin to its first batch. date: of the end, UTC, in ISO format.

    Raises ValueError if a value has another type, or if cost, seconds or start_seconds is negative
    or not finite.
    """

    weights: str
    layer: int
    pooling: str
    precision: str
    storage: str
    per_residue: bool
    long_sequences: str
    max_length: int
    kernels: str
    device: str
    device_name: str
    threads: int
    sequences: int
    tokens: int
    cost: float
    seconds: float
    start_seconds: float
    date: str

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), str(field.type)
            if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "bool"):
                raise ValueError(f"{field.name} is {value!r}, which is not of type {kind}")
        for name in ("cost", "seconds", "start_seconds"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)!r}, not a number from 0 on")

    @property
    def cost_a_second(self) -> float:
        """The speed, in the unit of LengthPolicy.costs(); 0 if nothing was computed."""
        return self.cost / self.seconds if self.seconds else 0.0


def speed_path(folder: Path, model: str, dataset: str, rank: int) -> Path:
    """Return the path of a worker's record; folder: resources/speeds."""
    return folder / model / f"{dataset}_{rank}.json"


def write_speed_record(
    folder: Path, record: SpeedRecord, *, model: str, dataset: str, rank: int
) -> Path | None:
    """Write a worker's record, in place of that of its last run; return the path.

    folder: resources/speeds. Nothing is written, and None returned, for a run that computed
    nothing, and for one shorter than ENOUGH_SECONDS if a longer one of the same settings is there.
    Raises OSError if the file cannot be written.
    """
    path = speed_path(folder, model, dataset, rank)
    if not record.seconds or not record.cost:
        return None
    if record.seconds < ENOUGH_SECONDS and _is_longer(_read(path), record):
        return None
    write_json(path, KIND, FORMAT_VERSION, asdict(record))
    return path


def _is_longer(earlier: SpeedRecord | Exception, record: SpeedRecord) -> bool:
    """Whether there is an earlier record, of a longer run of the same settings."""
    if isinstance(earlier, Exception) or earlier.seconds <= record.seconds:
        return False
    return settings_of(earlier) == settings_of(record)


def settings_of(record: SpeedRecord) -> tuple[object, ...]:
    """Return what two runs have in common if one says how fast the other will be."""
    return (
        *(record.weights, record.layer, record.precision, record.per_residue, record.kernels),
        *(record.device, record.device_name),
        # Beside a GPU, other threads only make batches ready.
        record.threads if record.device == "cpu" else 0,
    )


def read_speed_records(folder: Path, model: str, logger: logging.Logger) -> list[SpeedRecord]:
    """Return the records of all workers that embedded with a model, the newest first.

    folder: resources/speeds. A file that is damaged, or of another program, is named in a warning.
    """
    found = list(_read_all(folder / model, logger))
    return sorted(found, key=lambda record: record.date, reverse=True)


def _read_all(folder: Path, logger: logging.Logger) -> Iterator[SpeedRecord]:
    for path in sorted(folder.glob("*.json")):
        read = _read(path)
        if isinstance(read, SpeedRecord):
            yield read
        else:
            logger.warning("%s: is no record of speed (%s); it is not used, remove it", path, read)


def _read(path: Path) -> SpeedRecord | Exception:
    """Return a file's record, or the error that says why it has none."""
    try:
        content = read_json(path, KIND, FORMAT_VERSION)
        return SpeedRecord(**{field.name: content[field.name] for field in fields(SpeedRecord)})
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return error
