"""Print the figures of GPUs as the page docs/speed.md has them: Markdown, from the JSON files.

Of several files, the latest finding of a kind counts for each card and model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
# Which keys tell a kind's findings apart, beside the card.
KEYS = {
    "encoder": ("shape", "precision", "rows"),
    "floors": ("shape", "precision"),
    "loading": ("shape", "precision"),
    "memory": ("shape", "precision", "rows"),
    "graphs": ("shape", "precision"),
    "worker": ("shape", "precision", "start"),
    "start floors": ("shape",),
    "attention": ("shape", "precision", "way"),
    "race": ("shape", "contestant"),
    "compositions": ("shape", "precision"),
    "accuracy": ("shape", "precision", "kernels", "against"),
    "run": ("shape", "precision", "run"),
    "tests": (),
}
# How a worker starts: what the table says of the weights' files, and the floor of reading them.
READ = {
    "warm": ("in memory", "reading the weights"),
    "from disk": ("on disk", "reading the weights from disk"),
}
Found = dict[tuple[Any, ...], dict[str, Any]]


def read_findings(folder: Path) -> Found:
    """The findings of GPUs in a folder, by kind, card and the values of KEYS, in a fixed order."""
    parts = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    found: Found = {}
    for part in sorted(parts, key=lambda part: part["date"]):
        if part["device"] != "cuda":
            continue
        for finding in (finding for step in part["steps"] for finding in step["found"]):
            if (kind := finding["kind"]) in KEYS:
                own = (finding.get(name, "") for name in KEYS[kind])
                found[kind, part["device_name"], *own] = finding
    return found


def render(found: Found) -> str:
    """All tables that the findings fill, as Markdown; empty where there are none."""
    tables = (
        *(encoder_table, graphs_table, memory_table, start_table, loading_table),
        *(attention_table, race_table, bits_table),
    )
    return "\n".join(filter(None, (table(found) for table in tables)))


def encoder_table(found: Found) -> str:
    head = ("card", "model", "precision", "encoder alone", "of peak", "floors / encoder")
    head += ("worker after its first batch", "of peak", "worker / encoder")
    rows = []
    for (_, card, shape, precision), floors in of_kind(found, "floors"):
        encoder = found["encoder", card, shape, precision, floors["rows"]]
        alone = speed_alone(found, card, shape, precision, encoder)
        worker = found.get(("worker", card, shape, precision, "warm"), {})
        steady = worker.get("steady_tokens_per_second")
        rows.append(
            (
                *(card, shape, precision),
                tokens(encoder["tokens_per_second"]),
                percent(encoder["of_peak"]),
                f"{floors['floors_over_encoder']:.2f}",
                tokens(steady),
                percent(worker.get("of_peak")),
                f"{steady / alone:.2f}" if steady else "",
            )
        )
    return as_table(head, rows)


def speed_alone(
    found: Found, card: str, shape: str, precision: str, encoder: Mapping[str, Any]
) -> float:
    """The encoder's tokens a second: by CUDA graphs if it has any, as a worker computes.

    encoder: its finding without graphs.
    """
    own = found.get(("graphs", card, shape, precision), encoder)
    return float(own["tokens_per_second"])


def graphs_table(found: Found) -> str:
    head = ("card", "model", "precision", "encoder by CUDA graphs", "without", "ratio")
    head += ("graphs", "captured in", "memory that they take")
    rows = []
    for (_, card, shape, precision), own in of_kind(found, "graphs"):
        within, without = own["tokens_per_second"], own["tokens_per_second_without"]
        speeds = (tokens(within), tokens(without), f"{within / without:.2f}")
        costs = (f"{own['capture_seconds']:.1f} s", f"{own['memory_mb']:,.0f} MB")
        rows.append((card, shape, precision, *speeds, f"{own['buckets']}", *costs))
    return as_table(head, rows)


def memory_table(found: Found) -> str:
    """What a token takes of the card, at the rows that a worker's products have."""
    head = ("card", "model", "precision", "rows", "a token takes", "the worker's estimate")
    rows = [
        (
            *(card, shape, precision, f"{size:,}"),
            *(
                f"{own[name] / 1000:,.1f} kB"
                for name in ("bytes_a_token", "estimated_bytes_a_token")
            ),
        )
        for (_, card, shape, precision, size), own in of_kind(found, "memory")
        if size == own["own_rows"]
    ]
    return as_table(head, rows)


def start_table(found: Found) -> str:
    head = ("card", "model", "weights", "first batch after", "least", "its ratio")
    head += ("over reading alone", "all beside the batches, kernels compiled", "not compiled")
    rows = []
    for (_, card, shape, precision, start), worker in of_kind(found, "worker"):
        seconds = start_seconds(found, card, shape, precision, start)
        if seconds is None:
            continue
        first, least, reading = seconds
        cold = found.get(("worker", card, shape, precision, "cold"), {})
        beside = (w.get("seconds_beside_steady") for w in (worker, cold))
        rows.append(
            (
                *(card, shape, READ[start][0]),
                *(f"{first:.1f} s", f"{least:.1f} s", f"{first / least:.2f}"),
                f"{first / reading:.2f}",
                *("" if each is None else f"{each:.1f} s" for each in beside),
            )
        )
    return as_table(head, rows)


def start_seconds(
    found: Found, card: str, shape: str, precision: str, start: str
) -> tuple[float, float, float] | None:
    """Seconds until a worker's first batch is done, the least, and those of reading the weights.

    None if they were not measured, or if weights to be read from the disk were in memory, or if the
    worker's log has no first batch.
    """
    worker = found.get(("worker", card, shape, precision, start))
    floors = found.get(("start floors", card, shape), {})
    _, reading = READ.get(start, ("", ""))
    kept = start == "from disk" and floors.get("files still in the cache")
    if worker is None or reading not in floors or kept:
        return None
    least = floors["import torch and CUDA's start"] + floors[reading]
    first = worker["points"]["first batch is done"]
    return None if first is None else (first, least, floors[reading])


def loading_table(found: Found) -> str:
    """What loading takes of the host: the most that a process held, mapped files included."""
    head = ("card", "model", "precision", "files", "in all", "the largest")
    head += ("memory at the peak", "over the largest")
    rows = []
    for (_, card, shape, precision), own in of_kind(found, "loading"):
        largest, peak = own["largest_file_mb"], own["peak_mb"]
        sizes = (f"{size:,.0f} MB" for size in (own["files_mb"], largest, peak))
        rows.append((card, shape, precision, f"{own['files']}", *sizes, f"{peak / largest:.2f}"))
    return as_table(head, rows)


def attention_table(found: Found) -> str:
    head = ("card", "model", "precision", "attention", "TFLOP/s", "apart from fp64 at most")
    head += ("rows equal to the bit alone and in company",)
    rows = []
    for (_, card, shape, precision, way), own in of_kind(found, "attention"):
        # How the kernel is best divided is for who builds it.
        if own["tiles"]:
            continue
        name = f"{way}{', with biases' if own['biased'] else ''}"
        if error := own.get("error"):
            rows.append((card, shape, precision, name, error, "", ""))
            continue
        speed = f"{own['flops_per_second'] / 1e12:,.0f}"
        apart = f"{own['apart']:.1e} (rms {own['rms']:.2f})"
        equal = f"{own['equal']} of {own['compared']}"
        rows.append((card, shape, precision, name, speed, apart, equal))
    return as_table(head, rows)


def race_table(found: Found) -> str:
    head = ("card", "model", "program", "its tokens a batch", "tokens/s after the first batch")
    head += ("seqembed is", "of peak")
    rows = []
    for (_, card, shape, name), run in of_kind(found, "race"):
        theirs, ours_is = run["after_first_batch"], run["ours_is"]
        budget = dict(zip(run["options"], run["options"][1:], strict=False)).get("--budget", "")
        ratio = f"{ours_is:.2f} x" if ours_is else ""
        peak = measured_peak(found, card, shape, run["precision"])
        share = run["flops_per_token"] * theirs / peak if theirs and peak else None
        numbers = (tokens(theirs), ratio, percent(share))
        rows.append((card, shape, name, budget and f"{int(budget):,}", *numbers))
    return as_table(head, rows)


def measured_peak(found: Found, card: str, shape: str, precision: str) -> float | None:
    """The speed of the shape's matrix products on the card; None if it was not measured."""
    floors = found.get(("floors", card, shape, precision))
    if floors is None:
        return None
    encoder = found["encoder", card, shape, precision, floors["rows"]]
    return float(encoder["peak_flops_per_second"])


def bits_table(found: Found) -> str:
    rows = []
    for (_, card), tests in of_kind(found, "tests"):
        passed = tests["tests"] - sum(tests[name] for name in ("failures", "errors", "skipped"))
        rows.append(
            (card, "", "tests for GPUs and of kernels that passed", f"{passed} of {tests['tests']}")
        )
    for (_, card, shape, precision), bits in of_kind(found, "compositions"):
        what = f"{precision}: token rows equal to the bit in other batches"
        rows.append((card, shape, what, f"{bits['equal']} of {bits['compared']}"))
    for (_, card, shape, precision, name), run in of_kind(found, "run"):
        same = "equal to the byte" if run["equal"] else "**not equal**"
        rows.append((card, shape, f"{precision}: `embeddings`, {name}", same))
    for (_, card, shape, precision, _, against), own in of_kind(found, "accuracy"):
        apart = f"{own['max_abs']:.1e} at most (rms {own['rms']:.2f}), 1 - cosine "
        what = f"{precision} against {against}: mean rows apart"
        rows.append((card, shape, what, apart + f"{1 - own['cosine_min']:.0e}"))
    return as_table(("card", "model", "what", "found"), rows)


def of_kind(found: Found, kind: str) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    return ((key, finding) for key, finding in found.items() if key[0] == kind)


def tokens(a_second: float | None) -> str:
    return "" if a_second is None else f"{a_second:,.0f} tokens/s"


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def as_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="(%(default)s)")
    print(render(read_findings(parser.parse_args().results)))


if __name__ == "__main__":
    main()
