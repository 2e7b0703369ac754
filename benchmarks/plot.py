"""A picture of races: bars of tokens a second, a panel for each JSON file that speed.py wrote."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")  # before pyplot: there may be no display

from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

OURS, OTHERS = "#0b6e69", "#b9c0c7"
WIDTH, PANEL, BAR = 8.0, 1.1, 0.3  # inches: of the picture, of a panel without bars, of a bar


def draw(axes: Axes, result: Mapping[str, Any]) -> None:
    """Medians as bars, from the slowest run to the fastest as a line."""
    rows = result["summary"]
    names = [row["contestant"] for row in rows]
    medians = [row["median"] for row in rows]
    colours = [OURS if name.startswith("seqembed") else OTHERS for name in names]
    spread = [
        [row["median"] - row["min"] for row in rows],
        [row["max"] - row["median"] for row in rows],
    ]
    axes.barh(names, medians, xerr=spread, color=colours, ecolor="#333333", capsize=2)
    for number, row in enumerate(rows):
        axes.text(row["max"], number, f"  {row['median']:,.0f}", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.set_title(title(result), fontsize=9, loc="left")


def title(result: Mapping[str, Any]) -> str:
    cores = f"{result['threads']} threads of {result['machine']['cpu']}"
    on = cores if result["device"] == "cpu" else gpu_name(result)
    return f"{result['shape']}, {result['precision']}, on {on}"


def gpu_name(result: Mapping[str, Any]) -> str:
    """As the measure of the peak found it."""
    names = {run["device_name"] for run in result["runs"] if "device_name" in run}
    return ", ".join(sorted(names)) or "a GPU"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+", metavar="JSON")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a .png or .svg")
    arguments = parser.parse_args()
    results = [json.loads(path.read_text()) for path in arguments.results]
    heights = [PANEL + BAR * len(result["summary"]) for result in results]
    figure, panels = plt.subplots(
        len(results),
        figsize=(WIDTH, sum(heights)),
        squeeze=False,
        layout="constrained",
        gridspec_kw={"height_ratios": heights},
    )
    for axes, result in zip(panels[:, 0], results, strict=True):
        draw(axes, result)
    panels[-1, 0].set_xlabel("tokens a second (median; line: slowest to fastest run)", fontsize=8)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output, dpi=150)


if __name__ == "__main__":
    main()
