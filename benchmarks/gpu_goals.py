"""Print which goals the figures of GPUs meet: a Markdown table, from the JSON files of `make gpu`.

Of several files, the latest finding of a kind counts for each card and model. A worker's figures
are those of the start with its kernels compiled and the weights in memory.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from gpu_table import RESULTS, Found, as_table, of_kind, read_findings, speed_alone, start_seconds

# Takes the findings and the names of a card, a shape and a precision; returns the figure, None if
# it was not measured.
Read = Callable[..., float | None]


class Goal(NamedTuple):
    """What a figure should be: at least `bound`, or at most.

    h100: the bound on an H100, whose memory is slower than an H200's; None: `bound`.
    """

    shape: str
    precision: str
    figure: str
    read: Read
    bound: float
    at_most: bool = False
    h100: float | None = None

    def on_card(self, card: str) -> Goal:
        """The goal with the card's own bound."""
        return self if self.h100 is None or "H100" not in card else self._replace(bound=self.h100)

    def state(self, found: float | None) -> str:
        if found is None:
            return "not measured"
        met = found <= self.bound if self.at_most else found >= self.bound
        return "met" if met else "not met"


def encoder_finding(found: Found, *names: str) -> dict[str, Any] | None:
    """The encoder's finding at the rows that a worker's products have."""
    own = (
        finding
        for (_, *key, rows), finding in of_kind(found, "encoder")
        if key == [*names] and rows == finding["own_rows"]
    )
    return next(own, None)


def encoder_share(found: Found, *names: str) -> float | None:
    finding = encoder_finding(found, *names)
    return finding and finding["of_peak"]


def floors_share(found: Found, *names: str) -> float | None:
    return found.get(("floors", *names), {}).get("floors_over_encoder")


def of_worker(found: Found, *names: str, figure: str) -> float | None:
    return found.get(("worker", *names, "warm"), {}).get(figure)


worker_speed = partial(of_worker, figure="steady_tokens_per_second")
worker_share = partial(of_worker, figure="of_peak")
overhead_seconds = partial(of_worker, figure="seconds_beside_steady")


def worker_over_encoder(found: Found, *names: str) -> float | None:
    encoder, worker = encoder_finding(found, *names), worker_speed(found, *names)
    return worker / speed_alone(found, *names, encoder) if encoder and worker else None


def first_batch(found: Found, *names: str) -> float | None:
    """Time to the first batch, over that to import PyTorch, start CUDA and read the weights.

    The weights are in memory already.
    """
    seconds = start_seconds(found, *names, "warm")
    return seconds and seconds[0] / seconds[1]


def first_batch_from_disk(found: Found, *names: str) -> float | None:
    """Time to the first batch, over that to read the weights once, both from the disk."""
    seconds = start_seconds(found, *names, "from disk")
    return seconds and seconds[0] / seconds[2]


def over_peers(found: Found, *names: str, padded: bool) -> float | None:
    """The worker's speed over that of the fastest peer; padded: of those that pad batches."""
    ratios = [
        run["ours_is"]
        for (_, *key, name), run in of_kind(found, "race")
        if [*key, run["precision"]] == [*names]
        and not (name.startswith("seqembed") or (padded and "packed" in run["options"]))
    ]
    return min(filter(None, ratios), default=None)


def loading_memory(found: Found, *names: str) -> float | None:
    finding = found.get(("loading", *names))
    return finding and finding["peak_mb"] / finding["largest_file_mb"]


def equal_bits(found: Found, *names: str) -> float | None:
    """The share of the comparisons of gpu_bits.py in which all bits were equal."""
    finding = found.get(("compositions", *names))
    return finding and finding["equal"] / finding["compared"]


ENCODER, FROM_DISK, BITS = "encoder / peak", "first batch / reading, from disk", "equal bits"
GOALS = (
    Goal("t33_650M", "fp16", "floors / encoder", floors_share, 0.93),
    Goal("t33_650M", "fp16", ENCODER, encoder_share, 0.70, h100=0.66),
    Goal("t33_650M", "fp16", "worker / encoder", worker_over_encoder, 0.95),
    Goal("t33_650M", "fp16", "seconds beside the batches", overhead_seconds, 10, at_most=True),
    Goal("t33_650M", "fp16", "first batch / least", first_batch, 1.5, at_most=True),
    Goal("t33_650M", "fp16", "worker / fastest peer", partial(over_peers, padded=False), 1),
    Goal("t33_650M", "fp16", "worker / fastest padded", partial(over_peers, padded=True), 1.4),
    Goal("t33_650M", "fp16", BITS, equal_bits, 1),
    Goal("t12_35M", "fp16", "worker, tokens/s", worker_speed, 1_800_000),
    Goal("t6_8M", "fp16", "worker, tokens/s", worker_speed, 3_500_000),
    Goal("dnabert_s", "fp16", ENCODER, encoder_share, 0.55),
    Goal("dnabert_s", "fp16", "worker / peak", worker_share, 0.50),
    Goal("dnabert_s", "fp16", BITS, equal_bits, 1),
    Goal("t33_650M", "fp32", ENCODER, encoder_share, 0.60),
    Goal("t36_3B", "fp16", ENCODER, encoder_share, 0.74),
    Goal("t36_3B", "fp16", "memory to load / largest file", loading_memory, 1.3, at_most=True),
    Goal("t36_3B", "fp16", FROM_DISK, first_batch_from_disk, 1.5, at_most=True),
    Goal("prot_t5", "fp16", ENCODER, encoder_share, 0.55),
    Goal("prot_t5", "fp16", BITS, equal_bits, 1),
)


def render(found: Found) -> str:
    """The table of all goals on each card; without a card, of goals that are not measured."""
    cards = list(dict.fromkeys(key[1] for key in found)) or [""]
    rows = [row(goal.on_card(card), found, card) for card in cards for goal in GOALS]
    return as_table(("card", "model", "precision", "figure", "goal", "found", ""), rows)


def row(goal: Goal, found: Found, card: str) -> tuple[str, ...]:
    figure = goal.read(found, card, goal.shape, goal.precision)
    bound = f"{'at most' if goal.at_most else 'at least'} {goal.bound:,}"
    names = (card, goal.shape, goal.precision, goal.figure)
    return (*names, bound, written(figure), goal.state(figure))


def written(figure: float | None) -> str:
    return "" if figure is None else f"{figure:,.0f}" if figure >= 1000 else f"{figure:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="(%(default)s)")
    print(render(read_findings(parser.parse_args().results)), end="")


if __name__ == "__main__":
    main()
