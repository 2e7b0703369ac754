"""A race of our worker with its peers, each at the number of tokens a batch where it is fastest.

Every peer first embeds a part of the input at each number. Then all embed the whole input in turn,
each in a fresh process, for some rounds.
"""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import gpu_library
import speed
from contestants import DNA_PEERS, Contestant, Gemm, Ours, Peer, Scene, transformers_peer
from gpu_scene import emit, open_scene, parse, parser

ROUNDS = {"cuda": 2, "cpu": 1}
BUDGETS = {"cuda": (4096, 8192, 16384, 32768, 65536), "cpu": (512, 1024)}
PEERS = {
    "protein": [
        transformers_peer("packed", "packed"),
        transformers_peer("padded", "sorted"),
    ],
    "DNA": DNA_PEERS,
}
FAIR = Peer(name="fair-esm", program="peer_fair_esm", model="models/fair.pt")


def find_peers(scene: Scene) -> list[Peer]:
    """The peers of the shape that can run here; says so where one cannot."""
    peers = [*PEERS[scene.shape.molecule]]
    if scene.shape.molecule == "protein":
        if (scene.folder / FAIR.model).exists() and importlib.util.find_spec("esm"):
            return [*peers, FAIR]
        emit(
            "left out",
            contestant=FAIR.name,
            reason="the package fair-esm or its weights are missing",
        )
    return peers


def at_its_best(scene: Scene, peer: Peer) -> Peer | None:
    """The peer at its fastest budget; None, with a finding, if it cannot run."""
    try:
        with tempfile.TemporaryDirectory(dir=scene.folder) as folder:
            found = peer.tune(scene, Path(folder), BUDGETS[scene.device])
    except SystemExit as error:
        emit("left out", contestant=peer.name, reason=str(error)[-2000:])
        return None
    emit("budgets", shape=scene.shape_name, contestant=peer.name, **found)
    speeds = {budget: speed for budget, speed in found["budgets"].items() if speed}
    if not speeds:
        return None
    return replace(peer, options=[*peer.options, "--budget", max(speeds, key=speeds.__getitem__)])


def after_first(run: dict[str, Any]) -> float | None:
    """Tokens a second of a run after its first batch."""
    tokens, seconds = run["first"]
    return (run["tokens"] - tokens) / (run["seconds"] - seconds) if run["tokens"] > tokens else None


def main() -> None:
    scene = open_scene(parse(parser(__doc__)))
    peers = find_peers(scene)
    tuned = [best for peer in peers if (best := at_its_best(scene, peer))]
    rows = gpu_library.product_rows(scene.shape, scene.precision)
    field: list[Contestant] = [Ours(name="seqembed"), *tuned, Gemm(rows=rows)]
    runs = speed.race(scene, field, ROUNDS[scene.device], lambda run: emit("race run", **run))
    peak = median(run["flops_per_second"] for run in runs if run["contestant"] == "gemm")
    lengths = scene.lengths()
    a_token = scene.shape.flops(lengths) / sum(lengths)
    for contestant in field[:-1]:
        own = [run for run in runs if run["contestant"] == contestant.name]
        speeds = [after for run in own if (after := after_first(run))]
        emit(
            "race",
            shape=scene.shape_name,
            precision=scene.precision,
            threads=scene.threads,
            contestant=contestant.name,
            options=[*getattr(contestant, "options", ())],
            attention=own[0].get("attention"),
            runs=len(own),
            tokens=own[0]["tokens"],
            fill=own[0]["tokens"] / own[0]["places"],
            tokens_per_second=median(run["tokens"] / run["seconds"] for run in own),
            after_first_batch=median(speeds) if speeds else None,
            of_peak=a_token * median(speeds) / peak if speeds else None,
            difference=max(run["difference"] for run in own),
        )
    if len(tuned) < len(peers):
        raise SystemExit("not all peers could be raced")


if __name__ == "__main__":
    main()
