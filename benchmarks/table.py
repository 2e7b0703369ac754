"""The table of a race: what its runs come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

PEAK, IMPORT = "gemm", "import torch"
HEAD = ("contestant", "tokens/s: min", "median", "max", "ours is", "of peak", "fill", "MB", "apart")


def summarise(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each contestant, ours first; speeds in tokens a second.

    ours_is: how many times as fast our worker is, by medians. share: of the peak of matrix
    products, which is measured beside, None where it is not; only the model's own work counts.
    """
    peaks = [r["flops_per_second"] for r in result["runs"] if r["contestant"] == PEAK]
    flops_a_token = result["flops"] / result["tokens"]
    rows = []
    for name in dict.fromkeys(run["contestant"] for run in result["runs"] if "tokens" in run):
        runs = [run for run in result["runs"] if run["contestant"] == name]
        speeds = [run["tokens"] / run["seconds"] for run in runs]
        rows.append(
            {
                "contestant": name,
                "min": min(speeds),
                "median": median(speeds),
                "max": max(speeds),
                "share": flops_a_token * median(speeds) / median(peaks) if peaks else None,
                "fill": runs[0]["tokens"] / runs[0]["places"],
                "peak_mb": median(run["peak_mb"] for run in runs),
                "difference": max(run["difference"] for run in runs),
            }
        )
    return [row | {"ours_is": rows[0]["median"] / row["median"]} for row in rows]


def render(result: Mapping[str, Any]) -> str:
    """The table, and lines above and below it, as text."""
    lines = [_describe(result), *_align([HEAD, *map(_cells, result["summary"])])]
    return "\n".join([*lines, *_describe_start(result)])


def _describe(result: Mapping[str, Any]) -> str:
    peaks = [r["flops_per_second"] for r in result["runs"] if r["contestant"] == PEAK]
    peak = f"; peak {median(peaks) / 1e9:,.0f} GFLOP/s" if peaks else ""
    what = f"{result['sequences']:,} sequences, {result['tokens']:,} tokens"
    how = f"{result['device']}, {result['precision']}, {result['threads']} threads"
    load = max(run["load"] for run in result["runs"])
    return f"{result['shape']}: {what}; {how}{peak}; load average up to {load:.1f}"


def _describe_start(result: Mapping[str, Any]) -> list[str]:
    """How long our worker takes to its first batch, where it was measured what all take."""
    names = [result["summary"][0]["contestant"], IMPORT]
    starts = [[r["start"] for r in result["runs"] if r["contestant"] == name] for name in names]
    if not all(starts):
        return []
    ours, least = map(median, starts)
    return [f"start to first batch: {ours:.2f} s, {ours / least:.2f} x `{IMPORT}` ({least:.2f} s)"]


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    share = "" if row["share"] is None else f"{row['share']:.0%}"
    speeds = [f"{row[name]:,.0f}" for name in ("min", "median", "max")]
    others = [f"{row['ours_is']:.2f} x", share, f"{row['fill']:.0%}", f"{row['peak_mb']:,.0f}"]
    return (row["contestant"], *speeds, *others, f"{row['difference']:.0e}")


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *figures in rows:
        cells = [cell.rjust(width) for cell, width in zip(figures, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *cells]))
    return lines
