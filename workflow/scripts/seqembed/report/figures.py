"""The figures of a report, as specifications of Vega-Lite.

Their colours are CSS variables, whose values stand in colours.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
from numpy.typing import NDArray

from seqembed.report.history import ShardHistory, thin
from seqembed.report.neighbours import NEAR

Spec = dict[str, Any]

BARS = 40
# A figure has room for this many shards; of more, the slowest are drawn.
DRAWN_SHARDS = 16
# The most stretches of speed that a shard's line has.
STRETCHES = 200
ROW_HEIGHT = 34
HEIGHT = 180
TICKS = 12
# Digits enough to write 20, and not 2e+1.
PLAIN = ".6~g"
PHASE_COLOURS = {
    "waiting": "var(--grey)",
    "loading": "var(--c5)",
    "computing": "var(--c1)",
    "checkpoints": "var(--c2)",
    "writing": "var(--c3)",
    "no job": "var(--faint)",
}
# What is marked over a shard's speed: its colour and shape.
_MARKS = {
    "checkpoint": ("var(--c2)", "circle"),
    "restart": ("var(--c4)", "triangle-up"),
    "interrupted": ("var(--ink)", "square"),
    "killed": ("var(--c4)", "cross"),
    "failed": ("var(--c4)", "diamond"),
}

_CONFIG: Spec = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    # A mark's description is an expression, into which Vega-Lite puts titles: texts of strangers.
    "mark": {"aria": False},
    "axis": {
        "labelColor": "var(--ink)",
        "titleColor": "var(--ink)",
        "gridColor": "var(--grid)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "labelOverlap": "greedy",
        "labelSeparation": 6,
    },
    "legend": {
        "labelColor": "var(--ink)",
        "titleColor": "var(--ink)",
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "orient": "top",
        "direction": "horizontal",
        "labelLimit": 220,
    },
    "text": {"color": "var(--ink)", "fontSize": 12},
}


def _chart(values: Sequence[Mapping[str, Any]], **size: Any) -> Any:
    return alt.Chart(alt.Data(values=values), **size)


def finish(chart: Any) -> Spec:
    """Return the specification of a chart, with the fonts and colours of all figures."""
    made: Spec = chart.to_dict()
    return made | {"config": _CONFIG}


def draw_lengths(lengths: NDArray[np.int64], unit: str, limit: int) -> Spec:
    """Draw how many sequences have which length; unit: of it. limit: a line there, 0 for none."""
    low, high = max(1, int(lengths.min())), int(lengths.max())
    edges = np.unique(np.geomspace(low, high + 1, BARS + 1).round().astype(np.int64))
    chart = _draw_bars(lengths.clip(1), edges, f"length in {unit}", "sequences", log=low < high)
    if limit and low < limit < high:
        chart += _draw_line(limit, f"{limit:,} {unit}", left=limit > np.sqrt(low * high))
    return finish(chart)


def _draw_line(x: float, text: str, *, left: bool) -> Any:
    """Draw a line at x, with a text left or right of it."""
    line, place = _chart([{"x": x, "text": text}]), alt.X("x:Q")
    rule = line.mark_rule(color="var(--c4)", strokeWidth=2).encode(x=place)
    side = {"align": "right" if left else "left", "dx": -5 if left else 5}
    words = line.mark_text(baseline="top", color="var(--c4)", **side)
    return rule + words.encode(x=place, y=alt.value(0), text="text:N")


def draw_norms(norms: NDArray[np.float32]) -> Spec:
    """Draw how many rows have which Euclidean norm."""
    low, high = float(norms.min()), float(norms.max())
    # Equal norms get one bar.
    room = max(abs(high) * 1e-3, 1e-6) if high - low <= abs(high) * 1e-6 else 0
    edges = np.linspace(low - room, high + room, BARS + 1 if not room else 2)
    return finish(_draw_bars(norms, edges, "norm of the row", "sequences"))


def draw_neighbours(cosines: NDArray[np.float32]) -> Spec:
    """Draw how near each row is to its nearest, by cosine; a line stands at NEAR."""
    edges = np.linspace(np.floor(10 * min(NEAR, float(cosines.min()))) / 10, 1, BARS + 1)
    chart = _draw_bars(cosines, edges, "cosine with the nearest row", "sequences")
    return finish(chart + _draw_line(NEAR, f"{NEAR}", left=True))


def _draw_bars(
    values: NDArray[Any], edges: NDArray[Any], title: str, what: str, *, log: bool = False
) -> Any:
    counts, _ = np.histogram(values, edges)
    bars = [
        # A bar of whole numbers ends before the next one begins.
        {"from": begin, "to": end, "last": end - isinstance(end, int), "count": count}
        for begin, end, count in zip(
            edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True
        )
        if count
    ]
    ends = [float(edges[0]), float(edges[-1])]
    scale = alt.Scale(type="log" if log else "linear", domain=ends, nice=False)
    digits = ",d" if np.issubdtype(edges.dtype, np.integer) else PLAIN
    return (
        _chart(bars, width="container", height=HEIGHT)
        .mark_bar(color="var(--c1)", stroke="var(--paper)", strokeWidth=0.5)
        .encode(
            x=alt.X(
                "from:Q",
                scale=scale,
                title=title,
                axis=alt.Axis(format=digits, grid=False, tickCount=TICKS),
            ),
            x2="to:Q",
            y=alt.Y("count:Q", title=what, axis=alt.Axis(format=",d", tickMinStep=1)),
            y2=alt.datum(0),
            tooltip=[
                alt.Tooltip("from:Q", format=digits, title="from"),
                alt.Tooltip("last:Q", format=digits, title="to"),
                alt.Tooltip("count:Q", format=",d", title=what),
            ],
        )
    )


def choose_drawn(histories: Sequence[ShardHistory]) -> list[ShardHistory]:
    """Return the shards that figures show, by rank: all, or the DRAWN_SHARDS that took longest."""
    return choose_slowest(histories, DRAWN_SHARDS)


def choose_slowest(histories: Sequence[ShardHistory], count: int) -> list[ShardHistory]:
    """Return the `count` shards that took longest, by rank."""
    slowest = sorted(histories, key=lambda shard: -shard.worked)[:count]
    return sorted(slowest, key=lambda shard: shard.rank)


def draw_phases(histories: Sequence[ShardHistory]) -> Spec:
    """Draw for how long each shard waited, loaded, computed, saved and wrote, and had no job."""
    drawn = choose_drawn(histories)
    spans = [{**shard.seconds, "no job": shard.idle} for shard in drawn]
    longest = max(sum(span.values()) for span in spans)
    unit, size = _choose_unit(longest)
    there = [name for name in PHASE_COLOURS if any(span[name] > longest / 1000 for span in spans)]
    values = [
        {"shard": f"shard {s.rank}", "phase": name, "order": n, "time": span[name] / size}
        for s, span in zip(drawn, spans, strict=True)
        for n, name in enumerate(there)
    ]
    colours = alt.Scale(domain=there, range=[PHASE_COLOURS[name] for name in there])
    chart = (
        _chart(values, width="container", height=26 * len(drawn) + 10)
        .mark_bar()
        .encode(
            y=alt.Y("shard:N", sort=None, title=None, axis=alt.Axis(ticks=False, domain=False)),
            x=alt.X("time:Q", title=unit, axis=alt.Axis(format=PLAIN, tickCount=TICKS)),
            color=alt.Color("phase:N", scale=colours, title=None, sort=there),
            order="order:Q",
            tooltip=[
                alt.Tooltip("shard:N"),
                alt.Tooltip("phase:N"),
                alt.Tooltip("time:Q", format=".3~g", title=unit),
            ],
        )
    )
    return finish(chart)


def draw_speeds(histories: Sequence[ShardHistory]) -> Spec:
    """Draw each shard's speed over time, with its checkpoints, restarts and stops.

    Each shard has a row whose full height is the fastest speed of all shards.
    """
    drawn = choose_drawn(histories)
    begin, end = min(s.begin for s in drawn), max(s.end for s in drawn)
    unit, size = _choose_unit(end - begin)
    y = _give_rows(drawn)
    x = alt.X(
        "x:Q",
        title=f"{unit} since the first job began",
        scale=alt.Scale(nice=False, zero=True),
        axis=alt.Axis(format=PLAIN, tickCount=TICKS),
    )
    lines = _chart(
        [{"y": row + 1} for row in range(len(drawn))],
        width="container",
        height=ROW_HEIGHT * len(drawn),
    )
    bars = _chart(_list_steps(drawn, begin, end, size)).mark_rect(color="var(--c1)", opacity=0.75)
    layers = [
        lines.mark_rule(color="var(--line)").encode(y=y),
        bars.encode(
            x=x,
            x2="x2:Q",
            y=y,
            y2="y2:Q",
            tooltip=[alt.Tooltip("rate:Q", format=",.0f", title="tokens/s")],
        ),
        _draw_marks(_list_marks(drawn, begin, end, size), x, y),
    ]
    return finish(alt.layer(*layers))


def _give_rows(drawn: Sequence[ShardHistory]) -> alt.Y:
    """Return an axis with a row of height 1 for each shard, from the top."""
    names = ", ".join(f"'shard {shard.rank}'" for shard in drawn)
    axis = alt.Axis(
        values=[row + 0.5 for row in range(len(drawn))],
        labelExpr=f"[{names}][floor(datum.value)]",
        grid=False,
        ticks=False,
        domain=False,
    )
    return alt.Y("y:Q", title=None, axis=axis, scale=alt.Scale(domain=[len(drawn), 0], nice=False))


def _list_steps(
    drawn: Sequence[ShardHistory], begin: float, end: float, size: float
) -> list[dict[str, float]]:
    """Return the bars of speed, in the rows of their shards; size: the seconds of a unit."""
    fastest = max((speed.rate for s in drawn for speed in s.speeds), default=1.0) or 1.0
    steps = []
    for row, shard in enumerate(drawn):
        for speed in thin(shard.speeds, (end - begin) / STRETCHES):
            ends = {"x": (speed.begin - begin) / size, "x2": (speed.end - begin) / size}
            top = row + 1 - 0.8 * speed.rate / fastest
            steps.append({**ends, "y": row + 1, "y2": top, "rate": speed.rate})
    return steps


def _list_marks(
    drawn: Sequence[ShardHistory], begin: float, end: float, size: float
) -> list[dict[str, Any]]:
    """Return what is marked in the rows of the shards; size: the seconds of a unit."""
    marks = []
    for row, shard in enumerate(drawn):
        events = [
            *(("checkpoint", time, "") for time in _spread(shard.checkpoints, end - begin)),
            *(("restart", time, reason) for time, reason in shard.restarts),
            *((stop.status, stop.time, stop.reason) for stop in shard.stops),
        ]
        marks += [
            {"x": (time - begin) / size, "y": row + 0.97, "event": name, "reason": _clean(reason)}
            for name, time, reason in events
        ]
    return marks


def _draw_marks(marks: Sequence[Mapping[str, Any]], x: alt.X, y: alt.Y) -> Any:
    """Draw marks, with a legend of those that occur."""
    there = [name for name in _MARKS if any(mark["event"] == name for mark in marks)]
    colours, shapes = (
        alt.Scale(domain=there, range=[_MARKS[name][place] for name in there]) for place in (0, 1)
    )
    return (
        _chart(marks)
        .mark_point(filled=True, opacity=1, size=55)
        .encode(
            x=x,
            y=y,
            color=alt.Color("event:N", scale=colours, title=None),
            shape=alt.Shape("event:N", scale=shapes, title=None),
            tooltip=[alt.Tooltip("event:N"), alt.Tooltip("reason:N")],
        )
    )


def _clean(text: str) -> str:
    """Return the beginning of a text without characters that an SVG cannot hold."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:200])


def _spread(times: Sequence[float], span: float) -> list[float]:
    """Return times of which no two are so near that their marks would cover each other."""
    kept: list[float] = []
    for time in times:
        if not kept or time - kept[-1] >= span / STRETCHES:
            kept.append(time)
    return kept


def _choose_unit(seconds: float) -> tuple[str, float]:
    """Return the unit of an axis, and how many seconds one has."""
    for name, size in (("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return name, size
    return "seconds", 1.0


def draw_nothing() -> Spec:
    """Draw a line that says that there is nothing to draw."""
    words = [{"text": "There is nothing to draw: no row, or no event."}]
    return finish(_chart(words, height=40).mark_text().encode(text="text:N"))
