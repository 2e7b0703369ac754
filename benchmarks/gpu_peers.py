"""A race of our worker with its peers, each at the number of tokens a batch where it is fastest.

Every peer first embeds a part of the input at each number. Then all embed the whole input in turn,
each in a fresh process, for some rounds. fair-esm is raced apart: only some machines have it.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import gpu_library
import speed
from contestants import (
    DNA_PEERS,
    FAIR,
    Contestant,
    Ours,
    Peer,
    Scene,
    fastest,
    transformers_peer,
)
from gpu_scene import emit, open_scene, parse, parser
from shapes import Family

ROUNDS = {"cuda": 2, "cpu": 1}
BUDGETS = {"cuda": (4096, 8192, 16384, 32768, 65536), "cpu": (512, 1024)}
PACKED, PADDED = transformers_peer("packed", "packed"), transformers_peer("padded", "sorted")
PEERS: dict[Family, list[Peer]] = {
    "esm2": [PACKED, PADDED],
    "esmc": [PACKED, PADDED],
    # transformers packs no sequences whose attention has biases.
    "prot_t5": [PADDED],
    "ankh": [PADDED],
    "dnabert_s": DNA_PEERS,
}


class Worker(Ours):
    """seqembed's worker; SystemExit if it did not compute as one on a GPU does."""

    def run(self, scene: Scene, folder: Path) -> dict[str, Any]:
        figures = super().run(scene, folder)
        gpu_library.check_worker(folder / "worker_0.log", scene.device)
        return figures


def at_its_best(scene: Scene, peer: Peer) -> Peer | None:
    """The peer at its fastest budget; None, with a finding, if it cannot run."""
    try:
        with tempfile.TemporaryDirectory(dir=scene.folder) as folder:
            found = peer.tune(scene, Path(folder), BUDGETS[scene.device])
    except SystemExit as error:
        emit("left out", contestant=peer.name, reason=str(error)[-2000:])
        return None
    emit("budgets", shape=scene.shape_name, contestant=peer.name, **found)
    best = fastest(found["budgets"])
    return peer.at(best) if best else None


def after_first(run: dict[str, Any]) -> float | None:
    """Tokens a second of a run after its first batch."""
    tokens, seconds = run["first"]
    return (run["tokens"] - tokens) / (run["seconds"] - seconds) if run["tokens"] > tokens else None


def median_speed(runs: list[dict[str, Any]]) -> float | None:
    speeds = [speed for run in runs if (speed := after_first(run))]
    return median(speeds) if speeds else None


def emit_race(
    scene: Scene, contestant: Contestant, runs: list[dict[str, Any]], ours: float | None
) -> None:
    """Print what the runs of a contestant come to; ours: our worker's speed in the same race."""
    own, lengths = median_speed(runs), scene.lengths()
    emit(
        "race",
        shape=scene.shape_name,
        precision=scene.precision,
        threads=scene.threads,
        contestant=contestant.name,
        options=[*getattr(contestant, "options", ())],
        attention=runs[0].get("attention"),
        runs=len(runs),
        tokens=runs[0]["tokens"],
        fill=runs[0]["tokens"] / runs[0]["places"],
        tokens_per_second=median(run["tokens"] / run["seconds"] for run in runs),
        after_first_batch=own,
        ours_is=ours / own if ours and own else None,
        flops_per_token=scene.shape.flops(lengths) / sum(lengths),
        difference=max(run["difference"] for run in runs),
    )


def emit_races(scene: Scene, field: list[Contestant], runs: list[dict[str, Any]]) -> None:
    own = {c.name: [run for run in runs if run["contestant"] == c.name] for c in field}
    ours = median_speed(own[field[0].name])
    for contestant in field:
        emit_race(scene, contestant, own[contestant.name], ours)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--fair-esm", action="store_true", help="race with fair-esm only")
    options = parse(made)
    scene = open_scene(options)
    peers = [FAIR] if options.fair_esm else PEERS[scene.shape.family]
    tuned = [best for peer in peers if (best := at_its_best(scene, peer))]
    field: list[Contestant] = [Worker(name="seqembed"), *tuned]
    # After each round: the second one may not end in time.
    tell_all = partial(emit_races, scene, field)
    speed.race(scene, field, ROUNDS[scene.device], lambda run: emit("race run", **run), tell_all)
    if len(tuned) < len(peers):
        raise SystemExit("not all peers could be raced")


if __name__ == "__main__":
    main()
