"""The map of embeddings as a figure, and the colours that its points can have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
from numpy.typing import NDArray

from seqembed.flags import FP32_RETRY, TRUNCATED, WINDOWED
from seqembed.report.figures import Spec, finish
from seqembed.report.map import Layout
from seqembed.report.sample import Sample

# As many colours can be told apart; a column with more different values shows the most frequent.
MOST_COLOURS = 7
OTHER, MISSING = "other", "no value"
FLAGS = {WINDOWED: "windowed", TRUNCATED: "truncated", FP32_RETRY: "fp32 again"}
MAP_HEIGHT = 560
# The area of a point, on a map of many points and of fewer.
SMALL, LARGE, MANY = 14, 45, 4_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Colouring:
    """What the points of a map are coloured by: each point is of a class, which has a colour.

    codes: the number of each point's class. classes: their names, with their colours.
    """

    name: str
    codes: Sequence[int]
    classes: dict[str, str]

    @property
    def below(self) -> list[int]:
        """The numbers of the classes whose points say least, and are drawn below the others."""
        return [n for n, name in enumerate(self.classes) if name in (OTHER, MISSING)]


def list_details(sample: Sample) -> dict[str, Sequence[Any]]:
    """Return what is known of each point beside its id and description, by name."""
    files = [Path(path).name for path in sample.files]
    if len(set(files)) < len(set(sample.files)):
        files = sample.files
    own = {
        "length": sample.lengths.tolist(),
        "file": files,
        "flags": [describe_flags(flag) for flag in sample.flags.tolist()],
    }
    columns = sample.columns.items()
    return own | {f"{name} (table)" if name in own else name: found for name, found in columns}


def list_colourings(details: Mapping[str, Sequence[Any]]) -> list[Colouring]:
    """Return what points can be coloured by: the details that tell some of them apart."""
    found = (make_colouring(name, values) for name, values in details.items())
    return [colouring for colouring in found if len(colouring.classes) > 1]


def describe_flags(flags: int) -> str:
    """Return the flags of a row in words, "none" if it has none."""
    return ", ".join(name for flag, name in FLAGS.items() if flags & flag) or "none"


def make_colouring(name: str, values: Sequence[Any]) -> Colouring:
    """Put values into classes: many different numbers by size, all others by frequency.

    values: numbers, or texts; None where there is none.
    """
    there = [value for value in values if value is not None]
    numbers = bool(there) and not isinstance(there[0], str)
    if numbers and len(set(there)) > MOST_COLOURS:
        names, colours = _class_numbers(values, there)
    else:
        names, colours = _class_words(values, there, numbers)
    classes = {name: colour for name, colour in colours.items() if name in set(names)}
    numbered = {name: number for number, name in enumerate(classes)}
    return Colouring(name=name, codes=[numbered[name] for name in names], classes=classes)


def _class_numbers(values: Sequence[Any], there: Sequence[Any]) -> tuple[list[str], dict[str, str]]:
    """Return the class of each number, and the colours of classes that hold equally many.

    If most numbers are the same one, the classes hold equally many different numbers.
    """
    shares = np.linspace(0, 1, MOST_COLOURS + 1)
    edges = np.unique(np.quantile(there, shares, method="nearest"))
    if len(edges) < 3:
        edges = np.quantile(np.unique(there), shares, method="nearest")
    names = [f"{begin} to {end}" for begin, end in pairwise(_show_apart(edges.tolist()))]
    places = np.searchsorted(edges[1:-1], [0 if value is None else value for value in values])
    found = [
        MISSING if value is None else names[place]
        for value, place in zip(values, places.tolist(), strict=True)
    ]
    steps = np.linspace(1, MOST_COLOURS, len(names)).round().astype(int)
    colours = {name: f"var(--s{step})" for name, step in zip(names, steps, strict=True)}
    return found, colours | {MISSING: "var(--faint)"}


def _show_apart(numbers: Sequence[float]) -> list[str]:
    """Return different numbers as texts, with no more digits than tell them apart."""
    texts: list[str] = []
    for digits in range(4, 18):
        texts = [
            f"{number:,.{digits - 4}f}" if 1e3 <= abs(number) < 1e15 else f"{number:,.{digits}g}"
            for number in numbers
        ]
        if len(set(texts)) == len(texts):
            break
    return texts


def _class_words(
    values: Sequence[Any], there: Sequence[Any], numbers: bool
) -> tuple[list[str], dict[str, str]]:
    """Return the class of each value, and the colours of the most frequent ones."""
    counts = Counter(there)
    named = MOST_COLOURS if len(counts) <= MOST_COLOURS else MOST_COLOURS - 1
    common = [value for value, _ in counts.most_common(named)]
    chosen = [str(value) for value in (sorted(common) if numbers else common)]
    colours = {name: f"var(--c{place + 1})" for place, name in enumerate(chosen)}
    known = set(chosen)
    found = [
        MISSING if value is None else str(value) if str(value) in known else OTHER
        for value in values
    ]
    return found, colours | {OTHER: "var(--grey)", MISSING: "var(--faint)"}


def draw_map(layout: Layout, place: int, colouring: Colouring | None, number: int) -> Spec:
    """Draw points of the data named `points`, and rings around those of `found`.

    place, number: of the layout and the colouring in the data, whose points have the fields x0, y0,
    c0, ... for number 0. colouring: None if nothing tells points apart.
    """
    ends = [_widen(layout.places[:, axis]) for axis in (0, 1)]
    # The numbers on the axes of such a map mean nothing.
    plain = alt.Axis(labels=False, ticks=False, grid=False)
    x, y = (
        kind(f"{name}{place}:Q", title=title, axis=plain, scale=alt.Scale(domain=end, nice=False))
        for kind, name, title, end in zip((alt.X, alt.Y), "xy", layout.axes, ends, strict=True)
    )
    move = alt.selection_interval(
        bind="scales", encodings=["x", "y"], zoom="wheel![event.shiftKey]", name="move"
    )
    points = (
        alt.Chart(alt.NamedData("points"), width="container", height=MAP_HEIGHT)
        .mark_circle(size=SMALL if len(layout.places) > MANY else LARGE, opacity=0.7)
        .encode(x=x, y=y, color=_colour(colouring, number), tooltip=[alt.Tooltip("i:Q")])
        .add_params(move)
    )
    found = alt.Chart(alt.NamedData("found")).mark_point(
        size=170, strokeWidth=2.5, color="var(--ink)", opacity=1
    )
    return finish(points + found.encode(x=x, y=y, tooltip=[alt.Tooltip("i:Q")]))


def _widen(places: NDArray[np.float32]) -> list[float]:
    """Return the ends of an axis, with some room around the (n,) places on it."""
    low, high = float(places.min()), float(places.max())
    room = 0.04 * (high - low) or 1.0
    return [low - room, high + room]


def _colour(colouring: Colouring | None, number: int) -> Any:
    if colouring is None:
        return alt.value("var(--c1)")
    classes = colouring.classes
    scale = alt.Scale(domain=list(classes), range=list(classes.values()))
    return alt.Color(f"c{number}:N", scale=scale, title=colouring.name)
