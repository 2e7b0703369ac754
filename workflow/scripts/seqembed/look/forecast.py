"""How long a run will take: from records of earlier runs, else from a table of measured cards."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from seqembed.models.prepared import PreparedModel
from seqembed.settings.recipe import Recipe
from seqembed.worker.speed_records import ENOUGH_SECONDS, SpeedRecord

# The newest records count, so that a change of the machine or of seqembed shows.
NEWEST = 9
# What Snakemake takes to begin, and to start the merge.
RUN_SECONDS = 4.0
# How fast rows are written to a shard, read, and written to the result, in bytes of the result.
MERGE_BYTES_A_SECOND = 100e6


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a worker is, and where that is known from.

    cost_a_second: in the unit of LengthPolicy.costs(). start_seconds: from a worker's begin to its
    first batch. device_name: of the processor or the card. source: in words.
    """

    cost_a_second: float
    start_seconds: float
    device_name: str
    source: str


@dataclass(frozen=True, kw_only=True)
class MeasuredCard:
    """A card on which seqembed's worker was measured, by the model's sizes.

    cost_a_second: tokens a second without the worker's first five seconds, times the cost of a
    token of the sequences that were embedded.
    """

    family: str
    layers: int
    width: int
    precision: str
    device_name: str
    cost_a_second: float
    start_seconds: float


# Measured with PyTorch 2.11 on random weights of these sizes, before kernels were fused: 226,000
# tokens/s, 2,100,000 tokens/s, 187,000 tokens/s.
MEASURED = (
    MeasuredCard(
        family="esm2",
        layers=33,
        width=1280,
        precision="fp16",
        device_name="NVIDIA H200",
        cost_a_second=226_000 * 1.17,
        start_seconds=9.5,
    ),
    MeasuredCard(
        family="esm2",
        layers=6,
        width=320,
        precision="fp16",
        device_name="NVIDIA H200",
        cost_a_second=2_100_000 * 1.17,
        start_seconds=9.5,
    ),
    MeasuredCard(
        family="dnabert_s",
        layers=12,
        width=768,
        precision="fp16",
        device_name="NVIDIA H200",
        cost_a_second=187_000 * 1.08,
        start_seconds=9.5,
    ),
)


def find_speed(
    records: Iterable[SpeedRecord],
    model: PreparedModel,
    recipe: Recipe,
    device_name: str,
    threads: int,
) -> Speed | None:
    """Return how fast a worker will be; None if that is not known.

    records: of this model, the newest first. device_name: the processor's name, or the card's; ""
    if the card is not of this machine. Then the card of the newest record counts.
    """
    fitting = [record for record in records if _fits(record, recipe, threads)]
    if not device_name and fitting:
        device_name = fitting[0].device_name
    fitting = [record for record in fitting if record.device_name == device_name]
    if not fitting:
        return _find_measured(model, recipe, device_name)
    # Short runs count only if there are no others.
    long = [record for record in fitting if record.seconds >= ENOUGH_SECONDS]
    newest = (long or fitting)[:NEWEST]
    return Speed(
        cost_a_second=median(record.cost_a_second for record in newest),
        start_seconds=median(record.start_seconds for record in newest),
        device_name=device_name,
        source="by earlier runs there",
    )


def _fits(record: SpeedRecord, recipe: Recipe, threads: int) -> bool:
    own = ("weights", "layer", "precision", "per_residue", "kernels", "device")
    alike = all(getattr(record, name) == getattr(recipe, name) for name in own)
    return alike and record.device in ("cuda", "cpu") and record.threads in (threads, *_any(record))


def _any(record: SpeedRecord) -> Sequence[int]:
    # Beside a GPU, the number of threads says little.
    return (record.threads,) if record.device == "cuda" else ()


def _find_measured(model: PreparedModel, recipe: Recipe, device_name: str) -> Speed | None:
    sizes = model.architecture
    for card in MEASURED:
        same = (card.family, card.width, card.layers) == (model.family, sizes.width, recipe.layer)
        same = same and recipe.device == "cuda" and card.precision == recipe.precision
        if same and device_name in ("", card.device_name):
            return Speed(
                cost_a_second=card.cost_a_second,
                start_seconds=card.start_seconds,
                device_name=card.device_name,
                source="as an older version was measured there, with random weights",
            )
    return None


def predict_seconds(costs: Sequence[float], speed: Speed, at_once: int, result_bytes: int) -> float:
    """Return how long a run takes; costs: of what each shard lacks. at_once: shards at a time."""
    ends = [0.0] * max(1, at_once)
    for cost in costs:
        if cost:
            end = heapq.heappop(ends)
            heapq.heappush(ends, end + speed.start_seconds + cost / speed.cost_a_second)
    return RUN_SECONDS + max(ends) + result_bytes / MERGE_BYTES_A_SECOND
